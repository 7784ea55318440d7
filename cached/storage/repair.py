"""Repair of a published content, in place and while it is read: what needs no bytes, and single files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cached import faults
from cached.errors import IntegrityFailed, NotFound, SourceChanged
from cached.sets.leaves import decode_mtimes
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import root_from_leaves
from cached.storage import copying, files, scrub, trash, tree
from cached.storage.beneath import parent_of
from cached.storage.disk import Store
from cached.storage.publication import checked_manifest, file_mode
from cached.storage.scrub import Damage

REPAIR_LINKED = faults.declare("repair.linked")
REPAIR_RENAMED = faults.declare("repair.renamed")


#: Beside a tree: a link before it takes the place of a file.
TEMPORARY = "link"


def replace_file(store: Store, content: str, path: str, staged: Path) -> None:
    """Put a staged file in the place of a damaged one by one rename; readers keep what they have open.

    `staged` lies on the store's partition and is gone afterwards. `IntegrityFailed` when its bytes are not
    those of the manifest, `NotFound` when the content has no file of that path.
    """
    manifest = store.manifest(content)
    entry = next((entry for entry in manifest.files() if entry.path == path), None)
    if entry is None:
        raise NotFound(f"content {content[:12]} has no file {path!r}", path=path)
    with files.translated(path):
        _finish(staged, entry, _mtime(store, content, manifest, entry))
        with _opened(store, content) as data_fd, _writable(data_fd, path) as (parent, name):
            _make_way(parent, name)
            os.rename(staged, name, dst_dir_fd=parent)
            faults.point(REPAIR_RENAMED)


def replace_by_link(store: Store, content: str, path: str, donor: str, its_path: str) -> None:
    """Put a link to another content's file, which has the same bytes, in the place of a damaged one by one rename."""
    top = store.home(content)
    with (
        files.translated(path),
        _opened(store, donor) as theirs,
        parent_of(theirs, its_path) as (source, name),
        _opened(store, content) as data_fd,
        _writable(data_fd, path) as (parent, its_name),
    ):
        (top / TEMPORARY).unlink(missing_ok=True)
        os.link(name, top / TEMPORARY, src_dir_fd=source, follow_symlinks=False)
        _make_way(parent, its_name)
        os.rename(top / TEMPORARY, its_name, dst_dir_fd=parent)
        faults.point(REPAIR_LINKED)


def mend(store: Store, content: str, damages: Sequence[Damage]) -> list[Damage]:
    """Restore what needs no bytes: directories, links, empty files, modes, leaves; remove strays.

    Returns the damages that need bytes from elsewhere. Mend before `replace_file`: it needs directories.
    """
    if any(damage.kind == "manifest" for damage in damages):
        return list(damages)
    manifest = store.manifest(content)
    wanted = {entry.path: entry for entry in manifest.entries}
    left = []
    with files.translated(store.home(content)), _opened(store, content) as data_fd:
        broken = {damage.path for damage in damages if damage.needs_bytes}
        for damage in sorted(damages, key=lambda damage: damage.path):
            entry = wanted.get(damage.path)
            if damage.needs_bytes and entry is not None and entry.kind == "file" and entry.size:
                left.append(damage)
            elif damage.kind != "leaves":
                _restore(data_fd, damage, entry)
        _set_modes(data_fd, (entry for entry in manifest.entries if not _waits(entry, broken)))
    if any(damage.kind == "leaves" for damage in damages):
        if left:
            left += [damage for damage in damages if damage.kind == "leaves"]
        else:
            _rewrite_leaves(store, content, manifest)
    return left


def _waits(entry: Entry, broken: Collection[str]) -> bool:
    return entry.kind == "file" and entry.size > 0 and entry.path in broken


def restore_manifest(store: Store, content: str, manifest: bytes, leaves: bytes) -> None:
    """Put the right manifest and leaf digests in the place of damaged ones. Then scrub again: files may be too."""
    home = store.home(content)
    copying.check_leaves(checked_manifest(manifest, content), leaves)
    _put_leaves(home, leaves)
    with files.translated(home):
        files.write_atomic(home / "manifest", manifest)


def mend_from(store: Store, content: str, damages: Sequence[Damage], staged: Path) -> None:
    """Repair a content from a sealed staging area of the same content, which loses the files that were needed."""
    if any(damage.kind == "manifest" for damage in damages):
        restore_manifest(store, content, (staged / "manifest").read_bytes(), (staged / "leaves").read_bytes())
        damages = scrub.verify(store, content)
    left = mend(store, content, damages)
    for damage in left:
        if damage.needs_bytes:
            replace_file(store, content, damage.path, staged / "data" / damage.path)
    if any(damage.kind == "leaves" for damage in left):
        restore_manifest(store, content, store.manifest_bytes(content), (staged / "leaves").read_bytes())
    if left := scrub.verify_shape(store, content):
        raise IntegrityFailed(f"{left[0].path!r} could not be repaired: {left[0].kind}", path=left[0].path)


def close_off(store: Store, content: str, paths: Iterable[str]) -> None:
    """Take the right to read damaged files away, so that nobody reads them through a directory either."""
    _chmod_files(store, content, paths, lambda _: 0)


def open_again(store: Store, content: str, paths: Iterable[str]) -> None:
    """Give the right to read files back that turned out to be whole."""
    manifest = store.manifest(content)
    modes = {entry.path: file_mode(executable=entry.executable) for entry in manifest.files()}
    _chmod_files(store, content, [path for path in paths if path in modes], modes.__getitem__)


def close_directories(store: Store, content: str, paths: Iterable[str]) -> None:
    """Make the directories of files read-only: a repair that was cut short may have left them writable."""
    with suppress(NotFound), _opened(store, content) as data_fd:
        for path in paths:
            with suppress(OSError, NotFound):
                folder = tree.open_directory(data_fd, path.rpartition("/")[0])
                try:
                    os.fchmod(folder, 0o555)
                finally:
                    os.close(folder)


def _chmod_files(store: Store, content: str, paths: Iterable[str], mode: Callable[[str], int]) -> None:
    with _opened(store, content) as data_fd:
        for path in paths:
            with suppress(OSError), parent_of(data_fd, path) as (parent, name):
                if stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.chmod(name, mode(path), dir_fd=parent)


def _restore(data_fd: int, damage: Damage, entry: Entry | None) -> None:
    if damage.kind == "mode" or not damage.path:
        return
    if entry is None:
        with suppress(FileNotFoundError), _writable(data_fd, damage.path) as (parent, name):
            trash.remove(parent, name)  # a stray directory takes along what it holds
        return
    with _writable(data_fd, damage.path) as (parent, name):
        with suppress(FileNotFoundError):
            trash.remove(parent, name)
        if entry.kind == "dir":
            os.mkdir(name, 0o555, dir_fd=parent)
        elif entry.kind == "link":
            os.symlink(entry.target, name, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=parent))


def _set_modes(data_fd: int, entries: Iterable[Entry]) -> None:
    os.fchmod(data_fd, 0o555)
    for entry in entries:
        if entry.kind == "link":
            continue
        mode = 0o555 if entry.kind == "dir" else file_mode(executable=entry.executable)
        with suppress(FileNotFoundError), parent_of(data_fd, entry.path) as (parent, name):
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_IMODE(facts.st_mode) != mode and not stat.S_ISLNK(facts.st_mode):
                os.chmod(name, mode, dir_fd=parent)


def _rewrite_leaves(store: Store, content: str, manifest: Manifest) -> None:
    found = bytearray()
    with _opened(store, content) as data_fd:
        for entry in manifest.files():
            fd = tree.open_file(data_fd, entry.path)
            try:
                found += copying.read_leaves(fd, entry.size, lambda _: None)
            finally:
                os.close(fd)
    copying.check_leaves(manifest, bytes(found))
    _put_leaves(store.home(content), bytes(found))


def _put_leaves(home: Path, leaves: bytes) -> None:
    """Write leaves, durably; what follows from them is made again."""
    with files.translated(home):
        (home / "coarse").unlink(missing_ok=True)
        files.write_atomic(home / "leaves", leaves)


def _finish(staged: Path, entry: Entry, mtime: int | None) -> None:
    """Check a staged file against its entry, set mode and time, and sync it."""
    fd = os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size != entry.size:
            raise IntegrityFailed(f"the new {entry.path!r} is not what the manifest says", path=entry.path)
        try:
            root = root_from_leaves(copying.read_leaves(fd, entry.size, lambda _: None))
        except SourceChanged:
            root = b""
        if root != entry.root:
            raise IntegrityFailed(f"the new {entry.path!r} does not match the manifest", path=entry.path)
        os.fchmod(fd, file_mode(executable=entry.executable))
        if mtime is not None:
            os.utime(fd, ns=(mtime, mtime))
        os.fsync(fd)
    finally:
        os.close(fd)


def _mtime(store: Store, content: str, manifest: Manifest, entry: Entry) -> int | None:
    data = store.mtimes(content)
    if data is None:
        return None
    return decode_mtimes(data, manifest)[manifest.entries.index(entry)]


@contextmanager
def _opened(store: Store, content: str) -> Iterator[int]:
    fd = store.open_content(content)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _writable(data_fd: int, path: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of a path's directory, writable meanwhile, its time kept, synced afterwards."""
    head, _, name = path.rpartition("/")
    parent = tree.open_directory(data_fd, head)
    before = os.fstat(parent)
    os.fchmod(parent, 0o755)  # others keep reading
    try:
        yield parent, name
    finally:
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.fchmod(parent, 0o555)
        os.fsync(parent)
        os.close(parent)


def _make_way(parent: int, name: str) -> None:
    """Remove a directory that stands where a file belongs; the rename itself replaces anything else."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            trash.remove(parent, name)

"""The last look before a staged tree becomes visible: structure, sizes, modes, times, durability."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator
from hashlib import sha256
from pathlib import Path

from cached import faults
from cached.errors import IntegrityFailed
from cached.sets import manifest as manifests
from cached.sets.leaves import decode_mtimes
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF
from cached.sets.set import Tier
from cached.storage import durability, files, trash, tree
from cached.storage.beneath import open_beneath

STORE_SETTLED = faults.declare("store.settled")
STORE_SYNCED = faults.declare("store.synced")

#: What a content's directory may hold; anything else is left over from staging.
KEPT = frozenset({"data", "manifest", "leaves", "coarse", "mtimes", "origin", "sets"})


def checked_manifest(data: bytes, content: str, known: Manifest | None = None) -> Manifest:
    """Decode a manifest that hashes to the content id, or return what is known to; `IntegrityFailed` for any other."""
    if sha256(data).hexdigest() != content:
        raise IntegrityFailed(f"the manifest does not belong to content {content[:12]}", content=content)
    return known if known is not None else manifests.decode(data)


def leaf_bytes(entry: Entry) -> int:
    """Return how many bytes the leaf digests of a file take."""
    return -(-entry.size // LEAF) * 32


def file_mode(*, executable: bool) -> int:
    """Return the permission bits of a published file."""
    return 0o555 if executable else 0o444


def settle(
    staged: Path,
    content: str,
    tier: Tier,
    known: Manifest | None = None,
    linked: Collection[str] = frozenset(),
    written: Callable[[], None] = lambda: None,
    made: Container[str] = frozenset(),
) -> None:
    """Give a sealed tree its final modes and times, remove strays, check structure and sizes, sync it all.

    `known` is the manifest of the content where the caller has it: to read a large one takes a while. `linked` names
    the files that are links to those of other contents, and stay as they are there. `written` is called before the
    sync, and `made` names files that need no look, see `Store.publish`.
    """
    with files.translated(staged):
        manifest = _sealed_manifest(staged, content, known)
        _drop_leftovers(staged)
        times = _times(staged, manifest)
        data_fd = os.open(staged / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            wanted = dict(zip((entry.path for entry in manifest.entries), times or (), strict=False))
            for directory, members in _by_directory(manifest).items():
                _settle_directory(data_fd, directory, members, tier, wanted, linked, made)
            _set_directory_times(data_fd, manifest, times)
            faults.point(STORE_SETTLED)
            written()
            if tier == "disk":
                durability.sync_staged(staged, data_fd, manifest)
        finally:
            os.close(data_fd)
        faults.point(STORE_SYNCED)


def _sealed_manifest(staged: Path, content: str, known: Manifest | None) -> Manifest:
    path = staged / "manifest"
    if not path.exists():
        raise IntegrityFailed(f"{staged.name} is not sealed", txid=staged.name, content=content)
    manifest = checked_manifest(path.read_bytes(), content, known)
    if (staged / "leaves").stat().st_size != sum(map(leaf_bytes, manifest.files())):
        raise IntegrityFailed("the leaf digests do not fit the manifest", txid=staged.name, content=content)
    return manifest


def _drop_leftovers(staged: Path) -> None:
    with os.scandir(staged) as found:
        leftovers = [entry for entry in found if entry.name not in KEPT]
    for entry in leftovers:
        if entry.is_dir(follow_symlinks=False):
            trash.empty(staged / entry.name)
        else:
            os.unlink(entry.path)


def _times(staged: Path, manifest: Manifest) -> list[int] | None:
    path = staged / "mtimes"
    return decode_mtimes(path.read_bytes(), manifest) if path.exists() else None


def _by_directory(manifest: Manifest) -> dict[str, list[Entry]]:
    grouped: dict[str, list[Entry]] = defaultdict(list)
    grouped[""] = []
    for entry in manifest.entries:
        grouped[entry.path.rpartition("/")[0]].append(entry)
        if entry.kind == "dir":
            grouped[entry.path] = grouped[entry.path]
    return grouped


def _settle_directory(
    data_fd: int,
    path: str,
    members: list[Entry],
    tier: Tier,
    times: dict[str, int],
    linked: Collection[str],
    made: Container[str],
) -> None:
    try:
        fd = tree.open_directory(data_fd, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IntegrityFailed(f"the staged tree lacks the directory {path!r}", path=path) from error
    skip = len(path) + 1 if path else 0
    try:
        if tier == "disk" and _is_as_made(fd, members, skip, times, linked, made):
            os.fchmod(fd, 0o555)
            return
        with os.scandir(fd) as found:
            present = {entry.name: entry for entry in found}
        for entry, name, facts in _unsettled(members, present, skip, tier, times, made):
            _check_shape(fd, name, entry, facts)
            if entry.kind == "file" and facts is not None and entry.path not in linked:
                _settle_file(fd, name, entry, facts, tier)
                mtime = times.get(entry.path, facts.st_mtime_ns)
                if mtime != facts.st_mtime_ns or tier == "memory":  # where settling may have touched it
                    os.utime(name, ns=(mtime, mtime), dir_fd=fd, follow_symlinks=False)
        if present:
            os.fchmod(fd, 0o700)
            for name in present:
                trash.remove(fd, name)
        os.fchmod(fd, 0o555)
    finally:
        os.close(fd)


def _is_as_made(
    fd: int,
    members: list[Entry],
    skip: int,
    times: dict[str, int],
    linked: Collection[str],
    made: Container[str],
) -> bool:
    """Tell whether a directory has the files that were made for it and nothing else; one of them is looked at."""
    names = {entry.path[skip:] for entry in members if entry.path in made and entry.kind == "file"}
    if not names or len(names) < len(members) or any(entry.path in linked for entry in members):
        return False
    with os.scandir(fd) as listing:
        found = list(listing)
    files_there = {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
    if len(found) != len(names) or files_there != names:
        return False
    first = members[0]
    facts = os.stat(first.path[skip:], dir_fd=fd, follow_symlinks=False)
    return _is_settled(first, facts, times.get(first.path), "disk")


def _unsettled(
    members: list[Entry],
    present: dict[str, os.DirEntry[str]],
    skip: int,
    tier: Tier,
    times: dict[str, int],
    made: Container[str],
) -> Iterator[tuple[Entry, str, os.stat_result | None]]:
    """Iterate over a directory's entries that are not as they are to be; what is no entry is left in `present`.

    What the system makes of the mode and time of one file that was made, it makes of those of all.
    """
    alike = False
    for entry in members:
        name = entry.path[skip:]
        there = present.pop(name, None)
        new = entry.kind == "file" and entry.path in made
        if alike and new and there is not None and there.is_file(follow_symlinks=False):
            continue
        facts = None if there is None else there.stat(follow_symlinks=False)
        if facts is not None and _is_settled(entry, facts, times.get(entry.path), tier):
            alike = alike or new
        else:
            yield entry, name, facts


def _is_settled(entry: Entry, facts: os.stat_result, mtime: int | None, tier: Tier) -> bool:
    """Tell whether a file on disk was made as it is to be, so that nothing is left to do: most are."""
    return (
        facts.st_size == entry.size
        and facts.st_mtime_ns == mtime
        and facts.st_mode == (_EXECUTABLE if entry.executable else _PLAIN)
        and facts.st_nlink == 1
        and entry.kind == "file"
        and tier == "disk"
    )


def _check_shape(fd: int, name: str, entry: Entry, facts: os.stat_result | None) -> None:
    if facts is None or stat.S_IFMT(facts.st_mode) != _FORMATS[entry.kind]:
        raise IntegrityFailed(f"the staged tree lacks the {entry.kind} {entry.path!r}", path=entry.path)
    if entry.kind == "file" and facts.st_size != entry.size:
        raise IntegrityFailed(
            f"{entry.path!r} has {facts.st_size} bytes, the manifest says {entry.size}",
            path=entry.path,
            expected=entry.size,
            found=facts.st_size,
        )
    if entry.kind == "link" and os.readlink(name, dir_fd=fd) != entry.target:
        raise IntegrityFailed(
            f"the link {entry.path!r} leads elsewhere than the manifest says", path=entry.path
        )


_PLAIN = stat.S_IFREG | file_mode(executable=False)
_EXECUTABLE = stat.S_IFREG | file_mode(executable=True)
_FORMATS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}


def _settle_file(fd: int, name: str, entry: Entry, facts: os.stat_result, tier: Tier) -> None:
    if facts.st_nlink != 1:
        raise IntegrityFailed(
            f"{entry.path!r} has a second name through which it could change", path=entry.path
        )
    if tier == "memory" and facts.st_blocks * 512 < entry.size:
        os.chmod(name, 0o600, dir_fd=fd)
        writer = open_beneath(fd, name, os.O_RDWR | os.O_NOFOLLOW)
        try:
            files.allocate(writer, entry.size)
        finally:
            os.close(writer)
        os.chmod(name, file_mode(executable=entry.executable), dir_fd=fd)
    elif stat.S_IMODE(facts.st_mode) != file_mode(executable=entry.executable):
        os.chmod(name, file_mode(executable=entry.executable), dir_fd=fd)


def _set_directory_times(data_fd: int, manifest: Manifest, times: list[int] | None) -> None:
    if times is None:
        return
    here, fd = "", data_fd
    try:
        for entry, mtime in zip(reversed(manifest.entries), reversed(times), strict=True):
            if entry.kind == "file":
                continue
            parent, _, name = entry.path.rpartition("/")
            if parent != here:
                below = tree.open_directory(data_fd, parent) if parent else data_fd
                _close_unless(fd, data_fd)
                here, fd = parent, below
            os.utime(name, ns=(mtime, mtime), dir_fd=fd, follow_symlinks=False)
    finally:
        _close_unless(fd, data_fd)


def _close_unless(fd: int, kept: int) -> None:
    if fd != kept:
        os.close(fd)

"""The scrubber: does a stored content still match its manifest? Names each damage, changes nothing."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import IO, Literal, Self

import msgspec

from cached.errors import CachedError, SourceChanged
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import root_from_leaves
from cached.storage import copying, files, tree
from cached.storage.disk import Store
from cached.storage.publication import file_mode, leaf_bytes

Kind = Literal["manifest", "missing", "size", "bytes", "unreadable", "link", "stray", "mode", "leaves"]


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as the manifest says."""

    #: Path inside the set; empty for the content's own files and for the root directory.
    path: str
    kind: Kind
    expected: str = ""
    found: str = ""

    @property
    def needs_bytes(self) -> bool:
        """Whether another holder or the origin must help; anything else `repair.mend` can restore."""
        return self.kind in {"missing", "size", "bytes", "unreadable", "manifest"}


class Pace:
    """A limit in bytes per second, kept by sleeping; None for none."""

    def __init__(
        self,
        rate: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    def spend(self, count: int) -> None:
        """Wait until `count` bytes more may have been read."""
        if self._rate:
            now = self._clock()
            self._due = max(self._due, now - 1.0) + count / self._rate
            if self._due > now:
                self._sleep(self._due - now)


def verify(
    store: Store,
    content: str,
    *,
    rate: int | None = None,
    fresh: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Damage]:
    """Read a whole content; return every damage found, shape first, then bytes in canonical order.

    `rate` limits reading, in bytes per second. `fresh` reads from the device what the page cache may hold.
    `progress` is called with the bytes read since its last call; it may raise a `CachedError` to stop.
    """
    try:
        manifest = store.manifest(content)
    except CachedError as error:
        return [Damage(path="", kind="manifest", expected=content, found=error.message)]
    pace = Pace(rate)

    def report(count: int) -> None:
        progress(count)
        pace.spend(count)

    data_fd = store.open_content(content)
    try:
        with files.translated(store.home(content)):
            found = list(shape(data_fd, manifest))
        bad = {damage.path for damage in found if damage.needs_bytes}
        with _StoredLeaves(store, content, manifest) as stored, tree.Parents(data_fd) as parents:
            for entry in manifest.files():
                if entry.path not in bad:
                    leaves = _leaves_of(parents, entry, report, fresh=fresh)
                    if isinstance(leaves, Damage):
                        found.append(leaves)
                    else:
                        stored.compare(entry, leaves)
            broken = {damage.path for damage in found if damage.needs_bytes}
            found = [damage for damage in found if damage.kind != "mode" or damage.path not in broken]
            return found + stored.damages
    finally:
        os.close(data_fd)


def verify_shape(store: Store, content: str) -> list[Damage]:
    """Return what is wrong with a content's names, kinds, sizes, modes and links; no file is read."""
    data_fd = store.open_content(content)
    try:
        with files.translated(store.home(content)):
            return list(shape(data_fd, store.manifest(content)))
    finally:
        os.close(data_fd)


def shape(data_fd: int, manifest: Manifest) -> Iterator[Damage]:
    """Compare names, kinds, sizes, modes and links of a tree with its manifest, reading no file's bytes."""
    wanted = {entry.path: entry for entry in manifest.entries}
    if stat.S_IMODE(os.fstat(data_fd).st_mode) != 0o555:
        yield _mode_damage("", 0o555, os.fstat(data_fd).st_mode)
    for directory, fd, entries in tree.walk(data_fd):
        prefix = f"{directory}/" if directory else ""
        for found in entries:
            path = prefix + found.name
            entry = wanted.pop(path, None)
            if entry is None:
                yield Damage(path=path, kind="stray")
            elif (damage := _differs(fd, found, entry)) is not None:
                yield damage
    for path, entry in wanted.items():
        yield Damage(path=path, kind="missing", expected=entry.kind)


def _differs(fd: int, found: os.DirEntry[str], entry: Entry) -> Damage | None:
    facts = found.stat(follow_symlinks=False)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}.get(
        stat.S_IFMT(facts.st_mode), "other"
    )
    if kind != entry.kind:
        return Damage(path=entry.path, kind="missing", expected=entry.kind, found=kind)
    if kind == "link":
        target = os.readlink(found.name, dir_fd=fd)
        if target != entry.target:
            return Damage(path=entry.path, kind="link", expected=entry.target, found=target)
        return None
    if kind == "file" and facts.st_size != entry.size:
        return Damage(path=entry.path, kind="size", expected=str(entry.size), found=str(facts.st_size))
    mode = 0o555 if kind == "dir" else file_mode(executable=entry.executable)
    return _mode_damage(entry.path, mode, facts.st_mode) if stat.S_IMODE(facts.st_mode) != mode else None


def _mode_damage(path: str, expected: int, found: int) -> Damage:
    return Damage(path=path, kind="mode", expected=f"{expected:04o}", found=f"{stat.S_IMODE(found):04o}")


def _leaves_of(
    parents: tree.Parents, entry: Entry, report: Callable[[int], None], *, fresh: bool
) -> bytes | Damage:
    """Return the leaf digests of a file whose root is right, else its damage."""
    try:
        fd = _open(*parents.of(entry.path))
        try:
            if fresh:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            leaves = copying.read_leaves(fd, entry.size, report)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Damage(path=entry.path, kind="missing", expected="file")
    except SourceChanged:
        return Damage(path=entry.path, kind="size", expected=str(entry.size), found="fewer")
    except OSError as error:
        return Damage(path=entry.path, kind="unreadable", found=error.strerror or str(error))
    root = root_from_leaves(leaves)
    if root != entry.root:
        return Damage(path=entry.path, kind="bytes", expected=entry.root.hex(), found=root.hex())
    return leaves


def _open(parent: int, name: str) -> int:
    """Open a file for reading; one that was closed off (`repair.close_off`) for this moment alone."""
    try:
        return os.open(name, _READ, dir_fd=parent)
    except PermissionError:
        if stat.S_IMODE(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        os.chmod(name, 0o400, dir_fd=parent)
        try:
            return os.open(name, _READ, dir_fd=parent)
        finally:
            os.chmod(name, 0, dir_fd=parent)


class _StoredLeaves:
    """The stored leaf digests, read file by file beside the bytes; at most one damage is named."""

    def __init__(self, store: Store, content: str, manifest: Manifest) -> None:
        self.damages: list[Damage] = []
        self._at: dict[str, int] = {}
        offset = 0
        for entry in manifest.files():
            self._at[entry.path] = offset
            offset += leaf_bytes(entry)
        try:
            self._file: IO[bytes] = (store.home(content) / "leaves").open("rb")
        except OSError as error:
            self._file = io.BytesIO()
            self._damaged(error.strerror or str(error))
        else:
            if os.fstat(self._file.fileno()).st_size != offset:
                self._damaged("their number differs")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def compare(self, entry: Entry, leaves: bytes) -> None:
        if self.damages:
            return
        try:
            self._file.seek(self._at[entry.path])
            if self._file.read(len(leaves)) != leaves:
                self._damaged(f"they differ for {entry.path!r}")
        except OSError as error:
            self._damaged(error.strerror or str(error))

    def _damaged(self, why: str) -> None:
        self.damages.append(Damage(path="", kind="leaves", found=why))

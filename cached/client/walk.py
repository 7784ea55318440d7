"""What a user wants to be a set: directories walked, and files opened, as that user.

Nothing below the PATHs that the user names is reached through a link, and everything is opened relative to a
directory descriptor, so that a tree of any depth works and one that is moved about meanwhile cannot lead
elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec

from cached.errors import CachedError, Forbidden, NotFound, SourceChanged, UnsupportedFile, UsageError
from cached.sets.paths import check_links, check_paths
from cached.wire import Kind

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
#: Directories kept open at a time.
_MOST_OPEN: Final = 64
_ODD: Final = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


class Found(msgspec.Struct, frozen=True, gc=False):
    """One entry of the set to be, as it was when it was found."""

    #: In the set.
    path: str
    kind: Kind
    #: Below the PATH that the user named; empty for the PATH itself.
    below: str
    size: int = 0
    executable: bool = False
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    target: str = ""


class Folders:
    """Directories below one, opened by path; a few stay open: the next file is usually near the last."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._open = {"": os.open(top, _FOLDER)}

    def open(self, below: str) -> int:
        """Return a descriptor, valid until the next call; raises OSError."""
        if (found := self._open.get(below)) is not None:
            return found
        missing = []
        here = below
        while here not in self._open:
            missing.append(here)
            here = here.rpartition("/")[0]
        descriptor = self._open[here]
        for here in reversed(missing):
            descriptor = os.open(here.rpartition("/")[2], _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            self._open[here] = descriptor
            if len(self._open) > _MOST_OPEN:
                os.close(self._open.pop(next(each for each in self._open if each)))
        return descriptor

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            os.close(self._open.popitem()[1])


class Source:
    """One PATH that the user named; a link there is followed, because the user wrote it."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        #: What it is called in the set; empty: its contents are the set.
        self.name = name
        self.entries: list[Found] = []

    def scan(self) -> None:
        """Find all entries."""
        with _named(self.path):
            facts = self.path.stat()
        if stat.S_ISDIR(facts.st_mode):
            if self.name:
                self.entries.append(Found(self.name, "dir", "", mtime_ns=facts.st_mtime_ns))
            self._add_tree()
        else:
            self.entries.append(_found(self.name, "", facts, self.path))
        check_paths([found.path for found in self.entries])

    def files(self, small: int = -1) -> Iterator[tuple[Found, int | bytes]]:
        """Iterate over entries with an open descriptor each, -1 for what is not a file; the receiver closes it.

        Of files up to `small` bytes come the bytes, read while the file did not change.
        """
        folders = None
        try:
            for found in self.entries:
                if found.kind != "file":
                    yield found, -1
                    continue
                if not found.below:
                    with _named(self.path, moved=True):
                        descriptor = os.open(self.path, _FILE)
                else:
                    if folders is None:
                        folders = Folders(self.path)
                    descriptor = self._open(folders, found)
                if found.size <= small:
                    yield found, self._read(found, descriptor)
                else:
                    self._checked(found, descriptor)
                    yield found, descriptor
        finally:
            if folders is not None:
                folders.close()

    def _open(self, folders: Folders, found: Found) -> int:
        folder, _, name = found.below.rpartition("/")
        try:
            return os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=folders.open(folder))
        except OSError as error:
            raise _told(error, self._shown(found.below), moved=True) from error

    def _checked(self, found: Found, descriptor: int) -> os.stat_result:
        """Return the facts if the file is still what was found, else close it."""
        facts = os.fstat(descriptor)
        now = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if stat.S_ISREG(facts.st_mode) and now == (found.inode, found.size, found.mtime_ns):
            return facts
        os.close(descriptor)
        raise _changed(self._shown(found.below))

    def _read(self, found: Found, descriptor: int) -> bytes:
        """Return all bytes of a small file, and close it."""
        try:
            data = os.pread(descriptor, found.size + 1, 0)
            same = len(data) == found.size and _is_same(found, os.fstat(descriptor))
        except OSError:
            same = False  # it cannot be read, or is no file any more
        if not same:
            return self._read_closely(found, descriptor, self._checked(found, descriptor))
        os.close(descriptor)
        return data

    def _read_closely(self, found: Found, descriptor: int, before: os.stat_result) -> bytes:
        """Return all bytes of a small file, perhaps renamed or linked since it was found, and close it."""
        try:
            data = os.pread(descriptor, found.size + 1, 0)
            while 0 < len(data) < found.size and (more := os.pread(descriptor, found.size, len(data))):
                data += more
            after = os.fstat(descriptor)
        except OSError as error:
            raise _told(error, self._shown(found.below), "read") from error
        finally:
            os.close(descriptor)
        if data and not found.size:
            shown = self._shown(found.below)
            raise UnsupportedFile(
                f"{shown} says that it is empty and is not, as files of /proc do",
                hint="put a copy of it into the set",
                path=str(shown),
            )
        same = (before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        if len(data) != found.size or same != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            raise _changed(self._shown(found.below))
        return data

    def _add_tree(self) -> None:
        with _named(self.path, "read directory"):
            folders = Folders(self.path)
        try:
            pending = [""]
            while pending:
                folder = pending.pop()
                found = self._folder(folders, folder)
                self.entries += found
                pending += [each.below for each in reversed(found) if each.kind == "dir"]
        finally:
            folders.close()

    def _folder(self, folders: Folders, folder: str) -> list[Found]:
        here = f"{folder}/" if folder else ""
        above, found = f"{self.name}/" if self.name else "", []
        with _named(self._shown(folder), "read directory"):
            descriptor = folders.open(folder)
            with os.scandir(descriptor) as listing:
                entries = sorted(listing, key=_name)
            for entry in entries:
                below = here + entry.name
                facts = entry.stat(follow_symlinks=False)
                target = ""
                if stat.S_ISLNK(facts.st_mode):
                    target = os.readlink(entry.name, dir_fd=descriptor)
                found.append(_found(above + below, below, facts, self.path, target))
        return found

    def _shown(self, below: str) -> Path:
        return self.path / below if below else self.path


def scan(paths: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """Find what is to be in the set: one directory's contents, or several PATHs by their base names.

    Raises `NotFound`, `Forbidden`, `UnsupportedFile`, `BadName` or `UsageError`, each naming the file.
    """
    given = [Path(os.path.abspath(os.fspath(path))) for path in paths]
    if not given:
        raise UsageError("there is nothing to put into the set", hint="name a directory, or files")
    if len(given) == 1 and given[0].is_dir():
        sources = [Source(given[0], "")]
    else:
        sources = [Source(path, path.name) for path in given]
        _check_distinct(sources)
    for source in sources:
        source.scan()
    check_links({found.path: found.target for each in sources for found in each.entries if found.target})
    return sources


def _check_distinct(sources: Iterable[Source]) -> None:
    taken: dict[str, Path] = {}
    for source in sources:
        other = taken.setdefault(source.name, source.path)
        if other is not source.path:
            raise UsageError(
                f"{other} and {source.path} would both be called {source.name!r} in the set",
                hint="rename one, or put them into one directory",
            )


_name: Final = attrgetter("name")


def _found(path: str, below: str, facts: os.stat_result, top: Path, target: str = "") -> Found:
    mode = facts.st_mode
    if stat.S_ISREG(mode):
        return Found(
            path,
            "file",
            below,
            facts.st_size,
            bool(mode & 0o111),
            facts.st_mtime_ns,
            facts.st_ctime_ns,
            facts.st_ino,
        )
    if stat.S_ISDIR(mode):
        return Found(path, "dir", below, mtime_ns=facts.st_mtime_ns)
    if stat.S_ISLNK(mode):
        return Found(path, "link", below, mtime_ns=facts.st_mtime_ns, target=target)
    what, where = _ODD.get(stat.S_IFMT(mode), "no file"), top / below if below else top
    raise UnsupportedFile(
        f"{where} is {what}: it cannot be part of a set", hint="leave it out", path=str(where)
    )


def _is_same(found: Found, now: os.stat_result) -> bool:
    """Tell whether nothing at all has changed of a file since it was found, so that neither have its bytes."""
    return (
        now.st_ctime_ns == found.ctime_ns
        and now.st_mtime_ns == found.mtime_ns
        and now.st_size == found.size
        and now.st_ino == found.inode
        and stat.S_ISREG(now.st_mode)
    )


def _changed(shown: Path) -> SourceChanged:
    return SourceChanged(
        f"{shown} changed while it was read", hint="create the set again once its files rest", path=str(shown)
    )


class _named:  # noqa: N801 - reads as a phrase: `with _named(path):`
    """Turns an OSError into ours, with the path in it."""

    def __init__(self, path: Path, action: str = "open", *, moved: bool = False) -> None:
        self._path = path
        self._action = action
        self._moved = moved

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _told(error, self._path, self._action, moved=self._moved) from error


def _told(error: OSError, path: Path, action: str = "open", *, moved: bool = False) -> CachedError:
    """Return our error for one of the system's, with the path in it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(
            f"cannot {action} {path}: {error.strerror}",
            hint="the files of a set are read as you",
            path=str(path),
        )
    if moved and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return _changed(path)
    if error.errno == errno.ENOENT:
        return NotFound(f"there is no {path}", path=str(path))
    return CachedError(f"cannot {action} {path}: {error.strerror}", path=str(path))

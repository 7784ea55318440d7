"""Trees below a directory descriptor: making, opening, listing, counting, at any depth, through no link."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from cached.errors import NotFound
from cached.sets.manifest import Entry
from cached.storage.beneath import make_directories, open_beneath, parent_of

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
#: Without waiting where somebody put a FIFO, and without its becoming anybody's terminal.
_READ = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
#: Names that lead to no entry of their own.
_ELSEWHERE = frozenset({"", ".", ".."})
_BLOCK = 512


def open_beside(dirfd: int, name: str) -> int:
    """Open a file or directory that lies in the very directory `dirfd`, no link; OSError otherwise.

    One plain system call: what leads elsewhere is for `open_for_reading`.
    """
    if name in _ELSEWHERE or "/" in name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return os.open(name, _READ, dir_fd=dirfd)


def open_for_passing(dirfd: int, path: str) -> int:
    """Open a directory below `dirfd`, reached through no link, for opening what is in it; OSError otherwise."""
    return open_beneath(dirfd, path, os.O_PATH | os.O_DIRECTORY)


def open_for_reading(dirfd: int, path: str) -> int:
    """Open a file or directory below `dirfd`, following links that stay inside; `NotFound` otherwise."""
    try:
        return open_beneath(dirfd, path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK, links=True)
    except (OSError, ValueError) as error:
        raise NotFound(f"no such path in the set: {path!r}", path=path) from error


def open_file(dirfd: int, path: str) -> int:
    """Open a regular file of a tree for reading, through no link; OSError when it is not there."""
    return open_beneath(dirfd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def open_directory(dirfd: int, path: str) -> int:
    """Open a directory below `dirfd` for listing; the empty path is `dirfd` itself, opened anew."""
    return open_beneath(dirfd, path, _LIST)


def create(dirfd: int, path: str, flags: int, mode: int) -> int:
    """Open a file below `dirfd`, making it and its parents where they are absent."""
    flags |= os.O_CREAT | os.O_NOFOLLOW
    try:
        return open_beneath(dirfd, path, flags, mode)
    except FileNotFoundError:
        make_directories(dirfd, path.rpartition("/")[0])
    except PermissionError:  # left read-only by a publish that was cut short
        with parent_of(dirfd, path) as (parent, name):
            os.chmod(".", 0o700, dir_fd=parent)
            if os.access(name, os.F_OK, dir_fd=parent, follow_symlinks=False):
                os.chmod(name, mode, dir_fd=parent)
    return open_beneath(dirfd, path, flags, mode)


class Parents:
    """Directories below one, made where absent if wanted; the last stays open: the next file is usually beside it."""

    def __init__(self, dirfd: int, *, make: bool = False) -> None:
        self._root = dirfd
        self._make = make
        self._path = ""
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def of(self, path: str) -> tuple[int, str]:
        """Return the descriptor of the directory that holds `path`, valid until the next call, and the last name.

        It is reached through no link. OSError as `open_beneath`.
        """
        folder, _, name = path.rpartition("/")
        if not folder:
            return self._root, name
        if folder != self._path:
            self._leave()
            self._fd = _entered(self._root, folder, make=self._make)
            self._path = folder
        return self._fd, name

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd = "", -1


def _entered(dirfd: int, path: str, *, make: bool) -> int:
    try:
        return open_beneath(dirfd, path, _ENTER)
    except FileNotFoundError:
        if not make:
            raise
        make_directories(dirfd, path)
        return open_beneath(dirfd, path, _ENTER)


def make(dirfd: int, entries: Iterable[Entry]) -> None:
    """Create directories, links and empty files, writable by the daemon; what is there is made to fit."""
    for entry in entries:
        if entry.kind == "dir":
            make_directory(dirfd, entry.path)
        elif entry.kind == "link":
            make_link(dirfd, entry.path, entry.target)
        else:
            os.close(create(dirfd, entry.path, os.O_WRONLY | os.O_TRUNC, 0o600))


def make_directory(dirfd: int, path: str) -> None:
    """Make one directory and whatever parents it lacks; an existing one becomes writable."""
    try:
        with parent_of(dirfd, path) as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                os.close(os.open(name, _LIST, dir_fd=parent))  # raises when it is no directory
                os.chmod(name, 0o700, dir_fd=parent)
    except FileNotFoundError:
        make_directories(dirfd, path)


def make_link(dirfd: int, path: str, target: str) -> None:
    """Make one symbolic link and whatever parents it lacks, in place of another link of that name."""
    head = path.rpartition("/")[0]
    try:
        _link(dirfd, path, target)
    except FileNotFoundError:
        make_directories(dirfd, head)
        _link(dirfd, path, target)


def _link(dirfd: int, path: str, target: str) -> None:
    with parent_of(dirfd, path) as (parent, name):
        try:
            os.symlink(target, name, dir_fd=parent)
        except FileExistsError:
            if os.readlink(name, dir_fd=parent) != target:
                os.unlink(name, dir_fd=parent)
                os.symlink(target, name, dir_fd=parent)


def walk(dirfd: int) -> Iterator[tuple[str, int, list[os.DirEntry[str]]]]:
    """Yield each directory from `dirfd` down, parents first: path, descriptor (closed after), entries."""
    pending = [""]
    while pending:
        path = pending.pop()
        fd = open_directory(dirfd, path)
        try:
            with os.scandir(fd) as found:
                entries = list(found)
            prefix = f"{path}/" if path else ""
            pending.extend(prefix + entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            yield path, fd, entries
        finally:
            os.close(fd)


def physical_bytes(path: Path) -> int:
    """Return the bytes that a tree occupies on the device, directories included, each inode counted once."""
    root = os.open(path, _LIST)
    seen: set[tuple[int, int]] = set()
    total = 0
    try:
        for _, fd, entries in walk(root):
            total += os.fstat(fd).st_blocks
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) or (facts.st_dev, facts.st_ino) in seen:
                    continue
                if facts.st_nlink > 1:
                    seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_blocks
    finally:
        os.close(root)
    return total * _BLOCK

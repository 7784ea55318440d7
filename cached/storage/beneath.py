"""Open paths beneath a directory descriptor, so that neither `..` nor a link leads outside.

`openat2` does it in one system call; where the kernel or a seccomp filter refuses that, and for paths
longer than the kernel takes in one piece, a walk by directory descriptors gives the same answer.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OPENAT2 = 437  # the same number on all architectures
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_PATH_MAX = 4096
_LINKS_MAX = 40
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


#: linux/fs.h
_SYNC_FILE_RANGE_WRITE = 2


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def open_beneath(dirfd: int, path: str, flags: int, mode: int = 0, *, links: bool = False) -> int:
    """Open `path`, relative to `dirfd`, without leaving it; follow links inside it when `links` is true.

    Raises OSError: EXDEV when the path leads outside, ELOOP at a link that may not be followed.
    """
    encoded = os.fsencode(path or ".")
    flags |= os.O_CLOEXEC
    if len(encoded) >= _PATH_MAX or not _has_openat2():
        return _walk(dirfd, path, flags, mode, links=links)
    return _openat2(dirfd, encoded, flags, mode, links=links)


@contextmanager
def parent_of(dirfd: int, path: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that holds `path`, reached through no link, and the last name."""
    head, _, name = path.rpartition("/")
    if not head:
        yield dirfd, name
        return
    parent = open_beneath(dirfd, head, _DIRECTORY)
    try:
        yield parent, name
    finally:
        os.close(parent)


def make_directories(dirfd: int, path: str, mode: int = 0o700) -> None:
    """Make a directory and its parents, each reached through no link; what exists stays as it is."""
    here = os.dup(dirfd)
    try:
        for name in path.split("/"):
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=here)
            below = os.open(name, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)


def _openat2(dirfd: int, path: bytes, flags: int, mode: int, *, links: bool) -> int:
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | (0 if links else _RESOLVE_NO_SYMLINKS)
    how = _OpenHow(flags, mode if flags & os.O_CREAT else 0, resolve)
    for attempt in range(100):
        fd = int(
            _libc().syscall(_OPENAT2, dirfd, ctypes.c_char_p(path), ctypes.byref(how), ctypes.sizeof(how))
        )
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code == errno.EINTR or (code == errno.EAGAIN and attempt < 99):
            continue  # EAGAIN: a rename elsewhere raced with a `..` in the path
        break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


@functools.cache
def _has_openat2() -> bool:
    root = os.open("/", _DIRECTORY)
    try:
        os.close(_openat2(root, b".", _DIRECTORY, 0, links=False))
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM, errno.EACCES}:
            return False
        raise
    finally:
        os.close(root)
    return True


def _walk(dirfd: int, path: str, flags: int, mode: int, *, links: bool) -> int:
    """Do what `openat2` does, one element at a time."""
    if path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    stack = [os.dup(dirfd)]
    pending = path.split("/")[::-1]
    followed = 0
    try:
        while pending:
            name = pending.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                _step_up(stack, path, links=links)
            elif (target := _link_target(name, stack[-1])) is not None:
                followed += 1
                _check_link(target, followed, path, links=links)
                pending.extend(target.split("/")[::-1])
            elif not any(part not in {"", "."} for part in pending):
                return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=stack[-1])
            else:
                _step_down(stack, name, keep=links)
        return os.open(".", flags, dir_fd=stack[-1])
    finally:
        for fd in stack:
            os.close(fd)


def _step_down(stack: list[int], name: str, *, keep: bool) -> None:
    stack.append(os.open(name, _DIRECTORY, dir_fd=stack[-1]))
    if not keep and len(stack) > 2:
        os.close(stack.pop(-2))  # nothing leads up again: `..` is refused then


def _step_up(stack: list[int], path: str, *, links: bool) -> None:
    if len(stack) == 1 or not links:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    os.close(stack.pop())


def _link_target(name: str, dirfd: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=dirfd)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOENT}:
            return None
        raise


def _check_link(target: str, followed: int, path: str, *, links: bool) -> None:
    if not links or followed > _LINKS_MAX:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if target.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)


def sync_filesystem(fd: int) -> None:
    """Write everything unsynced of the file system that holds `fd` to its device (`syncfs`)."""
    if _libc().syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def start_writing(fd: int, start: int = 0, size: int = 0) -> None:
    """Have the kernel begin to write what was changed of a file to its device (`sync_file_range`), as soon as the
    device takes it; nothing is durable by that. `size` 0: to the end.
    """
    begin, count = ctypes.c_int64(start), ctypes.c_int64(size)
    if _libc().sync_file_range(fd, begin, count, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

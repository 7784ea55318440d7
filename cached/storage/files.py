"""Single files: atomic writes, renames that overwrite nothing, allocation, and what system errors mean."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cached.errors import CachedError, NoSpace

#: Bytes that one system call writes, at most. Without preemption in the kernel whoever is woken waits until it is over;
#: and the kernel takes a larger piece of memory for a larger write, which it has at hand less often, but which is read
#: again faster: of 256 KiB by a twenty-fifth faster than of 128.
STEP: Final = 256 << 10
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXISTS = frozenset({errno.EEXIST, errno.ENOTEMPTY})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def translated(path: Path | str) -> Iterator[None]:
    """Turn an OSError inside into `NoSpace` or a `CachedError` that names the path."""
    try:
        yield
    except OSError as error:
        raise told(error, path) from error


def told(error: OSError, path: Path | str) -> CachedError:
    """Return the error a caller can act on for a failed system call on `path`."""
    name = str(path)
    if error.filename is not None and str(error.filename) not in name:
        name = f"{name} ({error.filename})"
    if error.errno in _FULL:
        why = (
            "the disk quota of the daemon's user is used up"
            if error.errno == errno.EDQUOT
            else "the partition is full"
        )
        return NoSpace(
            f"cannot write {name}: {why}", hint="free space, or lower [store] capacity", path=str(path)
        )
    reason = error.strerror or str(error)
    hint = "the device fails: check the system log, replace it" if error.errno == errno.EIO else ""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        hint = "raise the limit on open files (LimitNOFILE)"
    return CachedError(
        f"{name}: {reason}", hint=hint, path=str(path), errno=errno.errorcode.get(error.errno or 0, "")
    )


def is_of_the_disk(error: CachedError) -> bool:
    """Say whether an error is one that `told` has made of a failed system call."""
    return isinstance(error, NoSpace) or "errno" in error.details


def write_atomic(
    path: Path, data: bytes | Iterator[bytes], *, mode: int = 0o600, durable: bool = True
) -> None:
    """Write a file under a temporary name, then rename it; `durable` syncs it and its directory."""
    staged = f"{path}.new"
    try:
        fd = os.open(staged, _NEW, 0o600)
    except FileExistsError:  # left by a write that was cut short
        os.unlink(staged)
        fd = os.open(staged, _NEW, 0o600)
    try:
        offset = 0
        for part in (data,) if isinstance(data, bytes) else data:
            write_all(fd, part, offset)
            offset += len(part)
        if mode != 0o600:
            os.fchmod(fd, mode)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(staged, path)
    if durable:
        sync(path.parent)


def read_if_there(path: Path) -> bytes | None:
    """Return a file's bytes, None when there is no such file."""
    with translated(path):
        return path.read_bytes() if path.exists() else None


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`, in bytes, at `offset`, a step at a time; a file system may take less."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view[:STEP], offset)
        offset += written
        view = view[written:]


def rename_new(source: Path, goal: Path) -> bool:
    """Rename a directory unless `goal` exists; return whether it was renamed."""
    try:
        source.rename(goal)
    except OSError as error:
        if error.errno in _EXISTS:
            return False
        raise
    return True


def allocate(fd: int, size: int) -> None:
    """Give a file all its blocks now, so that no reader of a mapping meets a hole on a full tmpfs."""
    if size:
        os.posix_fallocate(fd, 0, size)


def sync(path: Path) -> None:
    """Sync one directory or file to its device."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_spool(folder: Path) -> int:
    """Return a new, empty file in `folder` for reading and writing, found by nobody and gone when closed."""
    with translated(folder):
        with suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fd, name = tempfile.mkstemp(prefix="spool.", dir=folder)
        os.unlink(name)
        return fd

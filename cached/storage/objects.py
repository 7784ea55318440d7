"""Files of cached objects in the directory of one tier: allocated first, sealed by a rename, handed out by descriptor.

A file that has its name is whole and read-only (0444) in a directory that only the daemon may enter (0700), so readers
get descriptors and nothing else. Nothing is synced: a copy can be fetched again, and whoever opens one in a new boot
compares its checksum first. Everything here blocks; call it from threads.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import signal
import stat
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from cached import faults
from cached.errors import IntegrityFailed, NotFound, UsageError
from cached.storage import files

#: Bytes asked of the file system at a time, so that a full one says so soon.
CHUNK: Final = 64 << 20
#: What `st_blocks` counts in, whatever the block size of the file system (stat(2)).
_SECTOR: Final = 512
_NAME = re.compile(r"[0-9a-f]{64}(\.\d{1,9})?", re.ASCII)
_UNFINISHED: Final = ".new"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
CREATED = faults.declare("objects.created")
SEALED = faults.declare("objects.sealed")


class Found(msgspec.Struct, frozen=True):
    """A sealed file: its bytes, and the bytes that the file system gave it."""

    size: int
    allocated: int


class Writing:
    """A file that is being filled: `fd` is open for reading and writing, and all its bytes are allocated."""

    __slots__ = ("allocated", "fd", "name", "path", "size")

    def __init__(self, name: str, path: Path, fd: int, size: int) -> None:
        self.name, self.path, self.fd, self.size = name, path, fd, size
        #: Bytes that the file system gave it.
        self.allocated = os.fstat(fd).st_blocks * _SECTOR

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises `NoSpace` or another `CachedError`."""
        with files.translated(self.path):
            files.write_all(self.fd, data, offset)

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class ObjectStore:
    """The object files of one tier, by name: a digest, or `DIGEST.BLOCK`."""

    def __init__(self, root: Path) -> None:
        """Use `<root>/objects`, made when it is not there."""
        self.path = root / "objects"
        #: The same as text: joining paths takes as long as opening a file.
        self._folder = str(self.path)
        self._serial = itertools.count()
        #: One look at a time whether a file is open: each would take the other for a reader.
        self._looking = threading.Lock()
        with files.translated(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)

    def create(self, name: str, size: int) -> Writing:
        """Make a file of `size` bytes with all its blocks, which nobody sees before it is sealed.

        Raises `NoSpace` when the file system is full; nothing is left then.
        """
        path = self._path(name).with_name(f"{name}.{next(self._serial)}{_UNFINISHED}")
        with files.translated(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                for start in range(0, size, CHUNK):
                    os.posix_fallocate(fd, start, min(CHUNK, size - start))
                faults.point(CREATED)
                return Writing(name, path, fd, size)
            except BaseException:
                os.close(fd)
                path.unlink()
                raise

    def seal(self, writing: Writing) -> Found:
        """Make a filled file read-only, give it its name and close the descriptor; return what it takes.

        Raises `IntegrityFailed` when its size is not what it was made for. What cannot be sealed is discarded.
        """
        try:
            with files.translated(writing.path):
                found = os.fstat(writing.fd)
                if found.st_size != writing.size:
                    raise IntegrityFailed(
                        f"the copy {writing.name} has {found.st_size} bytes instead of {writing.size}",
                        hint="read the object again",
                    )
                os.fchmod(writing.fd, 0o444)
                faults.point(SEALED)
                writing.path.rename(self._path(writing.name))
        except BaseException:
            self.discard(writing)
            raise
        writing.close()
        return Found(found.st_size, found.st_blocks * _SECTOR)

    def discard(self, writing: Writing) -> None:
        """Remove a file that will not be sealed; again is harmless."""
        writing.close()
        with files.translated(writing.path), suppress(FileNotFoundError):
            writing.path.unlink()

    def open(self, name: str) -> int:
        """Return a descriptor for reading that stays good when the file is removed. Raises `NotFound`."""
        path = self._checked(name)
        try:
            return os.open(path, _READ)
        except FileNotFoundError:
            raise NotFound(f"no copy {name} here") from None
        except OSError as error:
            raise files.told(error, path) from error

    def retire(self, name: str) -> Path | None:
        """Take a sealed file's name away, at once; return where it lies until `erase`, None if it was not there.

        Who has it open reads on, and a new file may have the name from now on.
        """
        path = self._path(name)
        doomed = path.with_name(f"{name}.{next(self._serial)}{_UNFINISHED}")
        with files.translated(path):
            try:
                path.rename(doomed)
            except FileNotFoundError:
                return None
        return doomed

    def erase(self, doomed: Path) -> None:
        """Remove a retired file, which may take a while when it is large."""
        with files.translated(doomed), suppress(FileNotFoundError):
            doomed.unlink()

    def erase_closed(self, doomed: Path) -> bool:
        """Remove a retired file unless somebody has it open; say whether it is gone."""
        there = self.is_open(doomed)
        if not there:
            self.erase(doomed)
        return not there

    def is_open(self, name: str | Path) -> bool:
        """Say whether any process has a file open or mapped; False too where the file system cannot tell.

        The kernel gives a lease for writing only on what nobody else has open (fcntl(2)). Who opens it at that very
        moment waits for some microseconds, and the kernel tells this process so by a signal: one that is ignored, in
        place of SIGIO, which would end it.
        """
        path = name if isinstance(name, Path) else self._path(name)
        with self._looking:
            try:
                fd = os.open(path, _READ)
            except OSError:
                return False
            try:
                fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            except OSError as error:
                return error.errno == errno.EAGAIN
            finally:
                os.close(fd)
        return False

    def remove(self, name: str) -> bool:
        """Remove a sealed file; return whether it was there."""
        doomed = self.retire(name)
        if doomed is not None:
            self.erase(doomed)
        return doomed is not None

    def copy(self, source: int, name: str, size: int) -> Writing:
        """Make an unsealed copy of an open file of `size` bytes. Raises `NoSpace`, `IntegrityFailed`."""
        writing = self.create(name, size)
        done = 0
        try:
            with files.translated(writing.path):
                while done < size:
                    moved = os.sendfile(writing.fd, source, done, min(CHUNK, size - done))
                    if moved == 0:
                        raise IntegrityFailed(f"the copy {name} ends at {done} bytes instead of {size}")
                    done += moved
        except BaseException:
            self.discard(writing)
            raise
        return writing

    def survey(self) -> dict[str, Found]:
        """Return all sealed files by name, and remove what was left unfinished. For the start, before any `create`."""
        sealed: dict[str, Found] = {}
        with files.translated(self.path), os.scandir(self.path) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_UNFINISHED):
                    os.unlink(entry.path)
                elif _NAME.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                    sealed[entry.name] = Found(status.st_size, status.st_blocks * _SECTOR)
        return sealed

    def _path(self, name: str) -> Path:
        return Path(self._checked(name))

    def _checked(self, name: str) -> str:
        if not _is_name(name):
            raise UsageError(f"{name!r} names no copy of an object")
        return f"{self._folder}/{name}"


@lru_cache(maxsize=16_384)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None

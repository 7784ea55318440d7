"""Ballast: disk blocks set aside for a write that is still to come.

Space that is only promised on paper is invisible to other daemons and programs on the same partition. A ballast
file takes the blocks at once (fallocate(2), no bytes are written) and gives them back just before the real file
takes them, so that statvfs tells everybody the truth.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from pathlib import Path

from cached.errors import NoSpace

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Ballast:
    """Blocks held by one file; thread-safe."""

    def __init__(self, path: Path, size: int) -> None:
        """Take `size` bytes of blocks at `path`. Where the filesystem cannot, hold nothing. Raises `NoSpace`."""
        self._path = path
        self._lock = threading.Lock()
        self._left = 0
        #: Bytes of blocks that were taken at the start; 0 where the filesystem cannot.
        self.held = 0
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._fd = fd
        if size <= 0:
            return
        if _libc.fallocate(fd, 0, 0, size) == 0:
            self._left = self.held = size
            return
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT):
            self.drop()
            raise NoSpace(f"the partition cannot hold {size} bytes more", bytes_needed=size)

    @property
    def left(self) -> int:
        """Bytes of blocks still held."""
        return self._left

    def use(self, size: int) -> None:
        """Give back `size` bytes of blocks: they are about to be written elsewhere."""
        with self._lock:
            if self._left:
                self._left = max(0, self._left - size)
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._left)

    def drop(self) -> None:
        """Give everything back and remove the file."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._left = 0
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

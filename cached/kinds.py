"""What kind of file a descriptor leads to, without asking a file system that may not answer.

`fstat` of a file on NFS, or on FUSE, may go to a server and wait for it. What kind of file it is never changes, so
what the kernel remembers will do: statx(2) with AT_STATX_DONT_SYNC.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from typing import Final

_EMPTY_PATH: Final = 0x1000
_DONT_SYNC: Final = 0x4000
_TYPE: Final = 0x1
#: `struct statx` has 256 bytes; at 28 lies `stx_mode`, of two.
_SIZE: Final = 256
_MODE: Final = slice(28, 30)

_libc = ctypes.CDLL(None, use_errno=True)


def is_regular(descriptor: int) -> bool:
    """Tell whether a descriptor leads to a regular file, by what the kernel remembers. Raises `OSError`."""
    statx = getattr(_libc, "statx", None)
    if statx is None:  # a library older than 2018, or not of GNU
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    found = ctypes.create_string_buffer(_SIZE)
    if statx(descriptor, b"", _EMPTY_PATH | _DONT_SYNC, _TYPE, found):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return stat.S_ISREG(int.from_bytes(found.raw[_MODE], sys.byteorder))

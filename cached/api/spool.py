"""A request's body on its way into a file without a name; the partition is never filled by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from aiohttp import StreamReader

from cached.critical import to_the_end
from cached.errors import NoSpace, UsageError

#: Makes an empty file for reading and writing that goes with its descriptor; may block.
Spool = Callable[[], int]

#: Bytes written at a time.
_PIECE: Final = 4 << 20
#: What stays free on the partition: so many bytes, or this part of it where that is less.
_FLOOR: Final = 1 << 30
_FLOOR_PART: Final = 50


async def take_in(body: StreamReader, announced: int | None, descriptor: int) -> int:
    """Write a body into the file, and return its bytes. Raises `NoSpace` before the partition is full.

    No thread uses the descriptor any more when this returns, also when it is cancelled.
    """
    await to_the_end(asyncio.to_thread(_check_room, descriptor, announced or 0))
    parts: list[bytes] = []
    size = waiting = 0
    while part := await body.readany():
        parts.append(part)
        waiting += len(part)
        if waiting >= _PIECE:
            await to_the_end(asyncio.to_thread(_append, descriptor, parts, waiting))
            size, waiting, parts = size + waiting, 0, []
    await to_the_end(asyncio.to_thread(_append, descriptor, parts, waiting))
    size += waiting
    if announced is not None and size != announced:
        raise UsageError(f"{size} bytes came of the {announced} that were announced")
    return size


def _append(descriptor: int, parts: list[bytes], size: int) -> None:
    _check_room(descriptor, size)
    rest = memoryview(b"".join(parts))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _check_room(descriptor: int, size: int) -> None:
    partition = os.fstatvfs(descriptor)
    whole, free = partition.f_blocks * partition.f_frsize, partition.f_bavail * partition.f_frsize
    if free - size < min(_FLOOR, whole // _FLOOR_PART):
        raise NoSpace(
            f"the node's partition cannot take in {size} bytes",
            hint="free space there, or try another node",
            bytes_needed=size,
            bytes_free=free,
        )

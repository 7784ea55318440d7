"""A request's body on its way into a file without a name, whose space is reserved before it is written."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from aiohttp import StreamReader

from cached.critical import to_the_end
from cached.errors import UsageError
from cached.node.caller import Caller


class SpoolFile(Protocol):
    """An empty file for reading and writing, that goes with its context."""

    descriptor: int

    async def make_room(self, size: int) -> None:
        """Reserve so many bytes in all. Raises `NoSpace`."""


#: Gives a caller a file with room for so many bytes. Raises `NoSpace`, `Busy`.
Spool = Callable[[Caller, int], AbstractAsyncContextManager[SpoolFile]]

#: Bytes written at a time.
_PIECE: Final = 4 << 20
#: Bytes by which a file grows at least whose length nobody announced, once it is longer than a piece.
_STEP: Final = 64 << 20


async def take_in(body: StreamReader, announced: int | None, file: SpoolFile) -> int:
    """Write a body into the file, and return its bytes. Raises `NoSpace` before they are written.

    No thread uses the descriptor any more when this returns, also when it is cancelled.
    """
    parts: list[bytes] = []
    size = waiting = 0
    while part := await body.readany():
        parts.append(part)
        waiting += len(part)
        if waiting >= _PIECE:
            await _write(file, parts, size, waiting, announced is None)
            size, waiting, parts = size + waiting, 0, []
    await _write(file, parts, size, waiting, False)
    size += waiting
    if announced is not None and size != announced:
        raise UsageError(f"{size} bytes came of the {announced} that were announced")
    await to_the_end(asyncio.to_thread(os.ftruncate, file.descriptor, size))
    return size


async def _write(file: SpoolFile, parts: list[bytes], at: int, size: int, more: bool) -> None:
    """Write what came; `more` of it is to be expected."""
    end = at + size
    await file.make_room(-(-end // _STEP) * _STEP if more else end)
    await to_the_end(asyncio.to_thread(_put, file.descriptor, parts, at))


def _put(descriptor: int, parts: list[bytes], at: int) -> None:
    rest = memoryview(b"".join(parts))
    while rest:
        done = os.pwrite(descriptor, rest, at)
        at, rest = at + done, rest[done:]

"""A request's body on its way into a file without a name, whose space is reserved before it is written."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from aiohttp import StreamReader

from cached.critical import to_the_end
from cached.errors import TimedOut, UsageError
from cached.node.caller import Caller


class SpoolFile(Protocol):
    """An empty file for reading and writing, that goes with its context."""

    descriptor: int

    async def make_room(self, size: int) -> None:
        """Reserve so many bytes in all. Raises `NoSpace`."""


#: Gives a caller a file with room for so many bytes. Raises `NoSpace`, `Busy`.
Spool = Callable[[Caller, int], AbstractAsyncContextManager[SpoolFile]]

#: Seconds that what was announced may be behind `SLOWEST` (bytes per second): room is kept for all of it.
SILENCE: Final = 60.0
SLOWEST: Final = 256 << 10
#: Bytes written at a time.
_PIECE: Final = 4 << 20
#: Bytes by which a file grows at least whose length nobody announced, once it is longer than a piece.
_STEP: Final = 64 << 20


async def take_in(body: StreamReader, announced: int | None, file: SpoolFile) -> int:
    """Write a body into the file, and return its bytes. Raises `NoSpace` before they are written.

    Raises `TimedOut` when what was announced does not come. Who announces nothing takes no more room than was sent,
    and may take its time.

    No thread uses the descriptor any more when this returns, also when it is cancelled.
    """
    parts: list[bytes] = []
    size = waiting = 0
    patience = None if announced is None else _Patience()
    while part := await _next(body, patience):
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


class _Patience:
    """What is left of the time that a client may let the node wait."""

    def __init__(self) -> None:
        self.seconds = SILENCE

    @asynccontextmanager
    async def wait(self) -> AsyncIterator[None]:
        began = time.monotonic()
        async with asyncio.timeout(self.seconds):
            yield
        self.seconds -= time.monotonic() - began


async def _next(body: StreamReader, patience: _Patience | None) -> bytes:
    if patience is None:
        return await body.readany()
    try:
        async with patience.wait():
            part = await body.readany()
    except TimeoutError:
        raise TimedOut(
            "what was announced does not come", hint="send it faster, or as it comes, without a length"
        ) from None
    patience.seconds += len(part) / SLOWEST
    return part


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

"""A stream that one thread reads, checks and writes, one block after the other, while the event loop looks elsewhere.

One thread does all of it: reading encrypted bytes and hashing leaves take and return the interpreter's lock some
hundred thousand times for each GiB, and two threads that do so get in each other's way more than they gain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final, Protocol

from cached.errors import IntegrityFailed
from cached.replication.segments import Segment

#: Bytes that are read before they are hashed and written: few enough for the processor's cache.
BLOCK: Final = 1 << 20

#: Whole leaves of files, in the order in which they came.
Block = list[tuple[Segment, memoryview]]


class Source(Protocol):
    """The bytes of a stream, as `cached.peers` hands them over."""

    def read_into(self, buffer: memoryview) -> int:
        """Read for a moment, or until the buffer is full; return how many bytes: none where the stream ends."""
        ...

    def stop(self) -> None:
        """Let the thread that reads find the end of the stream."""
        ...

    def close(self) -> None:
        """Close the stream; nobody reads any more."""
        ...


#: `open_bulk(node_id, stream, query, stall)`: a peer's stream on a connection of its own.
OpenBulk = Callable[[str, str, dict[str, Any], float], Awaitable[Source]]


class Cutter(Protocol):
    """What makes blocks of bytes."""

    def cut(self, data: memoryview) -> tuple[Block, memoryview]:
        """Return the whole leaves at the beginning of the bytes, and what is left of them."""
        ...


async def drain(
    threads: Executor,
    source: Source,
    cutter: Cutter,
    wanted: int,
    take: Callable[[Block], object],
    enough: Callable[[], bool] = lambda: False,
) -> bool:
    """Have a thread read `wanted` bytes and hand them to `take` in blocks; tell whether it ended as it should.

    It should when all of them came, or with the block after which there was `enough`. The buffer is used again: blocks
    are good until `take` returns. Raises what reading and `take` raise. However it ends, also when the caller is
    cancelled, the thread has ended and the source is closed.
    """
    work = partial(_drain, source, cutter, wanted, take, enough)
    reading = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(threads, work))
    try:
        return await asyncio.shield(reading)
    finally:
        source.stop()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()
        source.close()


def _drain(
    source: Source,
    cutter: Cutter,
    wanted: int,
    take: Callable[[Block], object],
    enough: Callable[[], bool],
) -> bool:
    buffer = memoryview(bytearray(min(BLOCK, wanted)))
    held, left = 0, wanted
    while left:
        got = source.read_into(buffer[held : held + left])
        if not got:
            return False
        left -= got
        block, rest = cutter.cut(buffer[: held + got])
        take(block)
        held = len(rest)
        buffer[:held] = rest
        if enough():
            return True
    if held:
        raise IntegrityFailed("a holder sent something else than whole leaves")
    return True

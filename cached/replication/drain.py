"""A stream that one thread reads, checks and writes, one block after the other, while the event loop looks elsewhere.

One thread does all of it where files are large: reading encrypted bytes and hashing leaves take and return the
interpreter's lock some hundred thousand times for each GiB, and two threads that do so get in each other's way more
than they gain. Small files take the kernel long to make: the next block is read meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, Self

from cached.errors import IntegrityFailed
from cached.replication.segments import Segment
from cached.storage.small import FEW

#: Bytes that are read before they are hashed and written: few enough for the processor's cache.
BLOCK: Final = 1 << 20
#: A block of at least so many files is written while the next one is read.
MANY: Final = 2 * FEW

#: Whole leaves, or spans, of files, in the order in which they came.
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


#: `open_bulk(node_id, stream, query, stall, size)`: a peer's stream of `size` bytes on a connection of its own.
OpenBulk = Callable[[str, str, dict[str, Any], float, int], Awaitable[Source]]


class Cutter(Protocol):
    """What makes blocks of bytes."""

    def cut(self, data: memoryview) -> tuple[Block, memoryview]:
        """Return the whole parts of files at the beginning of the bytes, and what is left of them."""
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

    It should when all of them came, or with the block after which there was `enough`. Buffers are used again: blocks
    are good until `take` returns, which is never called for two of them at a time. Raises what reading and `take`
    raise. However it ends, also when the caller is cancelled, the threads have ended and the source is closed.
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
    size = min(BLOCK, wanted)
    buffer, other = memoryview(bytearray(size)), memoryview(b"")
    held, left = 0, wanted
    with _Taking(take) as taking:
        while left:
            got = source.read_into(buffer[held : held + left])
            if not got:
                return False
            left -= got
            block, rest = cutter.cut(buffer[: held + got])
            held = len(rest)
            taking.settle()
            if len(block) < MANY:
                take(block)
            else:
                taking.begin(block)
                buffer, other = other or memoryview(bytearray(size)), buffer
            buffer[:held] = rest
            if enough():
                return True
    if held:
        raise IntegrityFailed("a holder sent something else than whole parts of files")
    return True


class _Taking:
    """Has blocks taken by another thread, one at a time; leaving it waits for the last, and raises what that raised."""

    def __init__(self, take: Callable[[Block], object]) -> None:
        self._take = take
        self._thread: ThreadPoolExecutor | None = None
        self._now: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        if kind is None:
            self.settle()

    def begin(self, block: Block) -> None:
        """Have a block taken, now that none is."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="direct-taking")
        self._now = self._thread.submit(self._take, block)

    def settle(self) -> None:
        """Wait until the block is taken; raises what taking it raised."""
        now, self._now = self._now, None
        if now is not None:
            now.result()

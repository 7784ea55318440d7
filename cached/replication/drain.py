"""A stream that one thread reads, checks and writes, one block after the other, while the event loop looks elsewhere.

One thread does all of it where files are large: reading encrypted bytes and hashing leaves take and return the
interpreter's lock some hundred thousand times for each GiB, and two threads that do so get in each other's way more
than they gain. Small files take the kernel long to make: two other threads do so while the next block is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
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
#: Threads that write small files, and blocks that they are given ahead.
_WRITERS: Final = 2
_AHEAD: Final = 3

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
    write: Callable[[Block], object],
    written: Callable[[Block], object],
    enough: Callable[[], bool] = lambda: False,
) -> bool:
    """Have a thread read `wanted` bytes and hand them to `write` in blocks; tell whether it ended as it should.

    It should when all of them came, or with the block after which there was `enough`. Two blocks of many files may be
    written at a time; `written` gets all of them in the order in which they came. Buffers are used again: blocks are
    good until it returns. Raises what reading, `write` and `written` raise; nothing that came later counts. However it
    ends, also when the caller is cancelled, the threads have ended and the source is closed.
    """
    work = partial(_drain, source, cutter, wanted, write, written, enough)
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
    write: Callable[[Block], object],
    written: Callable[[Block], object],
    enough: Callable[[], bool],
) -> bool:
    size = min(BLOCK, wanted)
    buffer = memoryview(bytearray(size))
    held, left = 0, wanted
    with _Writing(write, written) as writing:
        while left:
            got = source.read_into(buffer[held : held + left])
            if not got:
                return False
            left -= got
            block, rest = cutter.cut(buffer[: held + got])
            held = len(rest)
            writing.settle_done()
            if len(block) < MANY:
                writing.do(block)
            else:
                buffer = writing.begin(block, buffer)
            buffer[:held] = rest
            if enough():
                return True
    if held:
        raise IntegrityFailed("a holder sent something else than whole parts of files")
    return True


class _Writing:
    """Has blocks written by other threads, two at a time; leaving it waits for all, and raises the first error."""

    def __init__(self, write: Callable[[Block], object], written: Callable[[Block], object]) -> None:
        self._write = write
        self._written = written
        self._threads: ThreadPoolExecutor | None = None
        #: What is under way, oldest first, and buffers that are free.
        self._now: deque[tuple[Future[object], Block, memoryview]] = deque()
        self._free: list[memoryview] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        try:
            self.settle()
        except Exception:
            if kind is None:
                raise

    def do(self, block: Block) -> None:
        """Write a block at once, after all others; raises as `settle`, and what writing it raises."""
        self.settle()
        if block:
            self._write(block)
            self._written(block)

    def begin(self, block: Block, buffer: memoryview) -> memoryview:
        """Have a block written that lies in a buffer, once few others are; return a buffer that is free."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_WRITERS, thread_name_prefix="direct-writing")
        while len(self._now) >= _AHEAD:
            self._settle_one()
        self._now.append((self._threads.submit(self._write, block), block, buffer))
        return self._free.pop() if self._free else memoryview(bytearray(len(buffer)))

    def settle(self) -> None:
        """Wait until all blocks are written; raises what the first raised that was not."""
        while self._now:
            self._settle_one()

    def settle_done(self) -> None:
        """Count those that are written by now; raises as `settle`."""
        while self._now and self._now[0][0].done():
            self._settle_one()

    def _settle_one(self) -> None:
        future, block, buffer = self._now.popleft()
        try:
            future.result()
            self._written(block)
        except BaseException:
            self._now.clear()  # what came after it does not count
            raise
        self._free.append(buffer)

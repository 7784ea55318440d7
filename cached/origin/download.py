"""Reading objects: ranges pinned to a generation, several at once, checked as a whole."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Iterator

from cached.errors import IntegrityFailed, UsageError
from cached.origin.calls import Part
from cached.origin.crc import crc32c, of_parts
from cached.origin.lanes import Lanes
from cached.origin.origin import MOST_AT_ONCE, Progress
from cached.origin.values import Pinned


async def read(lanes: Lanes, pinned: Pinned, start: int, stop: int, *, token: str | None) -> bytes:
    """Return a range; a whole object is checked, and read once more when it is wrong."""
    stop = min(stop, pinned.size)
    if start < 0 or stop - start > MOST_AT_ONCE:
        raise UsageError(
            f"{pinned.address}: bytes {start} to {stop} cannot be asked for",
            hint=f"from 0 on, and at most {MOST_AT_ONCE} at once",
        )
    if start >= stop:
        return b""
    for again in (True, False):
        async with lanes.bulk(token):
            data = b"".join(await _part(lanes, Part(pinned, start, stop), token))
        if stop - start < pinned.size or crc32c(data) == pinned.crc32c:
            return data
        _wrong(lanes, pinned, again=again)
    raise AssertionError("unreachable")


async def fetch(
    lanes: Lanes,
    pinned: Pinned,
    fd: int,
    *,
    token: str | None,
    progress: Progress | None,
    part: int,
    parallel: int,
) -> None:
    """Write all bytes to a descriptor and check them; when they are wrong, once more from the beginning."""
    for again in (True, False):
        copy = _Copy(lanes, pinned, fd, token, progress, min(part, MOST_AT_ONCE))
        await copy.run(parallel)
        if copy.crc() == pinned.crc32c:
            return
        _wrong(lanes, pinned, again=again)


class _Copy:
    """One pass over an object; at most `parallel` parts are in memory, and fewer when others read too."""

    def __init__(
        self, lanes: Lanes, pinned: Pinned, fd: int, token: str | None, progress: Progress | None, part: int
    ) -> None:
        self._lanes, self._pinned, self._fd, self._token = lanes, pinned, fd, token
        self._progress = progress
        self._starts = range(0, pinned.size, part)
        self._part = part
        self._done = 0
        self._crcs: dict[int, tuple[int, int]] = {}

    async def run(self, parallel: int) -> None:
        """Copy all parts. The first error is raised once the other parts have stopped."""
        if self._progress is not None:
            self._progress(0)
        waiting = iter(self._starts)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(max(1, parallel), len(self._starts))):
                    group.create_task(self._lane(waiting))
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
        else:
            return
        raise first

    def crc(self) -> int:
        """Return the crc32c of all parts together."""
        return of_parts(self._crcs[start] for start in self._starts)

    async def _lane(self, waiting: Iterator[int]) -> None:
        for start in waiting:
            async with self._lanes.bulk(self._token):
                await self._copy(start, min(start + self._part, self._pinned.size))

    async def _copy(self, start: int, stop: int) -> None:
        """Copy one part; its bytes are gone when this returns, before somebody else's turn."""
        pieces = await _part(self._lanes, Part(self._pinned, start, stop), self._token)
        crc = await self._lanes.work(functools.partial(_write, self._fd, pieces, start))
        self._crcs[start] = (crc, stop - start)
        self._done += stop - start
        if self._progress is not None:
            self._progress(self._done)


async def _part(lanes: Lanes, part: Part, token: str | None) -> list[bytes]:
    try:
        await lanes.ask(
            "media",
            functools.partial(part.read, timeout=lanes.timeout),
            part.pinned.address,
            token=token,
            size=part.size,
            moved=lambda: part.filled,
        )
        return part.take()
    finally:
        part.abandoned = True
        lanes.stats.moved(received=part.filled)


def _write(fd: int, pieces: list[bytes], start: int) -> int:
    """Write pieces one after the other, the first at `start`; return their crc32c. Raises `OSError`."""
    crc, at = 0, start
    for piece in pieces:
        crc = crc32c(piece, crc)
        view = memoryview(piece)
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
    return crc


def _wrong(lanes: Lanes, pinned: Pinned, *, again: bool) -> None:
    if not again:
        raise IntegrityFailed(
            f"{pinned.address}: the bytes received do not have its crc32c, twice",
            hint="something between Cloud Storage and here changes bytes; nothing of them was kept",
        )
    lanes.stats.retried("crc32c")

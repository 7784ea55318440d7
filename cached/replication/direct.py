"""The direct method: one verified stream from a holder, for small sets and single receivers.

The receiver checks every leaf, or every 64 KiB where it has no more than coarse digests, before it counts. It writes in
large pieces, goes on where an earlier attempt ended, and changes to another holder when one fails, sends what does not
match, or falls silent.
Few bytes come with the event loop's requests, more over a connection of their own that a thread reads (`drain`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cached.errors import CachedError, IntegrityFailed, NoSource, PeerUnreachable
from cached.replication.drain import Block, OpenBulk, drain
from cached.replication.expected import Expected
from cached.replication.files import scan, write_alone, write_block
from cached.replication.segments import LeafLine, Range, Segment, after
from cached.replication.serving import FEW, MOST_RANGES, STREAM
from cached.replication.transfer import FetchJob, Holder, Holders
from cached.sets.digests import check

log = logging.getLogger(__name__)

#: Seconds without a byte after which another holder is asked.
STALL = 2.0
#: From so many bytes on a stream is worth a thread's turn, on a connection of its own that is kept for the next one,
#: where the holder offers it.
BULK_FROM = 256 << 10
#: Streams that are read at a time; more wait.
MOST_BULK = 32

_BLOCK = 2 * 1024 * 1024
_TRY_AGAIN = 0.5
#: Seconds after which what a slow link brought is written, though it is less than a block.
_SETTLE = 0.5

#: `fetch_stream(node_id, stream, query)`: the bytes of a peer's stream.
FetchStream = Callable[[str, str, dict[str, Any]], AsyncIterator[bytes]]
#: `corrupt(node_id, content, path)`: a holder sent bytes that do not match.
Corrupt = Callable[[str, str, str], None]


@dataclass(slots=True)
class _Work:
    """What is still missing of a job."""

    job: FetchJob
    line: LeafLine
    expected: Expected
    missing: list[Range]
    #: Holders that sent wrong bytes, and how often each failed.
    bad: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    #: Holders to whom no connection for bulk could be made.
    narrow: set[str] = field(default_factory=set)
    reason: str = "no holder is known"


class Direct:
    """The receiving end."""

    def __init__(
        self,
        *,
        fetch_stream: FetchStream,
        open_bulk: OpenBulk | None = None,
        corrupt: Corrupt | None = None,
        patience: float = 20.0,
    ) -> None:
        self._fetch_stream = fetch_stream
        self._open_bulk = open_bulk
        self._threads = ThreadPoolExecutor(MOST_BULK, thread_name_prefix="direct")
        self._corrupt = corrupt
        self._patience = patience
        #: Verified payload bytes received, by content.
        self.received: dict[str, int] = {}

    async def fetch(self, job: FetchJob, holders: Holders, prefer: str = "") -> None:
        """Bring the content into `job.data`, verified; the caller syncs and renames.

        Whatever is there already and verifies is kept. `prefer` names the holder to ask first. On failure or
        cancellation partial files stay. Raises `NoSource` when no holder has sent anything for a while,
        `IntegrityFailed` when all that could be asked sent wrong bytes, `NoSpace` when the disk is full.
        """
        progress = job.progress
        progress.state = "checking"
        at_once = _nothing_is_here(job) and len(job.manifest.entries) <= FEW
        work = _look(job) if at_once else await asyncio.to_thread(_look, job)
        progress.state = "transferring"
        await self._fill(work, holders, prefer)
        progress.state, progress.reason = "done", ""

    async def _fill(self, work: _Work, holders: Holders, prefer: str) -> None:
        loop = asyncio.get_running_loop()
        progress, moved_at = work.job.progress, loop.time()
        if work.job.given is not None and _nothing_is_here(work.job):
            await self._unpack(work, *work.job.given)
        while work.missing:
            before = progress.bytes_present
            source = _choose(work, holders, prefer)
            if source is not None:
                await self._try(work, source)
            if progress.bytes_present > before:
                moved_at = loop.time()
                continue
            progress.reason = work.reason
            borne = work.job.patience(self._patience)
            if loop.time() - moved_at > borne or (source is None and work.bad):
                raise _hopeless(work)
            await asyncio.sleep(_TRY_AGAIN)

    async def _try(self, work: _Work, holder: Holder) -> None:
        source = holder.node_id
        try:
            if not (self._is_bulk(work, holder) and await self._pull_bulk(work, source)):
                await self._pull(work, source)
            work.job.progress.reason = ""
        except IntegrityFailed as error:
            work.job.progress.hash_failures += 1
            work.bad.add(source)
            work.reason = f"{source} sent bytes that do not match: {error.message}"
            if self._corrupt is not None:
                self._corrupt(source, work.job.content, str(error.details.get("path", "")))
        except (TimeoutError, _BrokenStreamError) as error:
            work.failures[source] = work.failures.get(source, 0) + 1
            work.reason = f"{source}: {error}" if str(error) else f"{source} sends nothing"
        if work.reason:
            log.debug("direct fetch of %s: %s", work.job.content, work.reason)

    def _is_bulk(self, work: _Work, holder: Holder) -> bool:
        return (
            self._open_bulk is not None
            and holder.bulk
            and holder.node_id not in work.narrow
            and work.line.bytes_in(work.missing[:MOST_RANGES]) >= BULK_FROM
        )

    async def _pull_bulk(self, work: _Work, source: str) -> bool:
        """Have a thread read one stream to its end; False where there is no such connection to that holder."""
        assert self._open_bulk is not None
        ranges, query = _asked(work)
        wanted, segments = work.line.bytes_in(ranges), _Segments(work, ranges)
        try:
            stream = await self._open_bulk(source, STREAM, query, STALL, wanted)
        except CachedError as error:
            log.debug("no connection for bulk to %s: %s", source, error.message)
            work.narrow.add(source)
            return False

        def again() -> bool:
            return "first" not in query and work.job.first()  # asked for anew, these bytes go before others

        try:
            whole = await drain(
                self._threads,
                stream,
                segments,
                wanted,
                partial(write_alone, work.job, work.expected),
                partial(self._count, work, source),
                again,
            )
        except PeerUnreachable as error:
            raise _BrokenStreamError(error.message) from error
        if not whole:
            raise _BrokenStreamError("the stream ended early")
        return True

    async def _unpack(self, work: _Work, source: str, data: bytes) -> None:
        """Take all bytes, which came without being asked for; should they not be right, they are asked for."""
        segments = _Segments(work, work.missing)
        try:
            block, _ = segments.cut(memoryview(data))
            await self._write(work, source, block)
        except IntegrityFailed as error:
            work.job.progress.hash_failures += 1
            log.debug("%s gave wrong bytes of %s: %s", source, work.job.content, error.message)

    async def _pull(self, work: _Work, source: str) -> None:
        """Read one stream to its end, writing behind."""
        ranges, query = _asked(work)
        first = "first" in query
        segments = _Segments(work, ranges)
        writing: asyncio.Task[None] | None = None
        parts: list[bytes | memoryview] = []
        loop = asyncio.get_running_loop()
        held, again, cut_at = 0, False, loop.time()
        stream = self._fetch_stream(source, STREAM, query)
        try:
            async for data in _lively(stream):
                parts.append(data)
                held += len(data)
                if held >= _BLOCK or loop.time() - cut_at > _SETTLE:
                    await _settle(writing)
                    block, rest = segments.cut(memoryview(b"".join(parts)))
                    parts, held, cut_at = [rest], len(rest), loop.time()
                    writing = asyncio.create_task(self._write(work, source, block))
                if again := work.job.first() and not first:
                    break  # asked for anew, these bytes go before others
            await _settle(writing)
            block, rest = segments.cut(memoryview(b"".join(parts)))
            writing = asyncio.create_task(self._write(work, source, block))
            await _settle(writing)
            if (rest or segments.left) and not again:
                raise _BrokenStreamError("the stream ended early")
        finally:
            if writing is not None:
                await asyncio.wait([writing])
                if not writing.cancelled():
                    writing.exception()
            with contextlib.suppress(Exception):
                await stream.aclose()  # type: ignore[attr-defined]

    async def _write(self, work: _Work, source: str, block: Block) -> None:
        await asyncio.to_thread(self._take, work, source, block)

    def _take(self, work: _Work, source: str, block: Block) -> None:
        """Check and write a block, and count it; in a thread."""
        if block:
            write_block(work.job, work.expected, block)
            self._count(work, source, block)

    def _count(self, work: _Work, source: str, block: Block) -> None:
        job = work.job
        written = sum(len(data) for _, data in block)
        work.missing = after(work.missing, block[-1][0].end)
        job.progress.bytes_present += written
        job.progress.reason = ""
        job.progress.by_source[source] = job.progress.by_source.get(source, 0) + written
        self.received[job.content] = self.received.get(job.content, 0) + written


def _asked(work: _Work) -> tuple[list[Range], dict[str, Any]]:
    """Return what to ask for next, and the query that asks for it."""
    ranges = work.missing[:MOST_RANGES]
    query: dict[str, Any] = {"content": work.job.content, "ranges": [list(part) for part in ranges]}
    if work.job.first():
        query["first"] = True
    return ranges, query


def _nothing_is_here(job: FetchJob) -> bool:
    return job.fresh and job.proven and not job.linked and job.only is None


def _look(job: FetchJob) -> _Work:
    """Find out what is missing."""
    job.progress.bytes_wanted = sum(
        entry.size for entry in job.manifest.files() if job.only is None or entry.path in job.only
    )
    if not job.proven:
        check(job.manifest, job.digests)
    line, expected = LeafLine(job.manifest), Expected(job.manifest, job.digests)
    if _nothing_is_here(job):
        missing = [(0, line.total)] if line.total else []
    else:
        missing = scan(job.data, line, expected, job.only, job.linked, job.proved)
    job.progress.bytes_present = job.progress.bytes_wanted - line.bytes_in(missing)
    return _Work(job=job, line=line, expected=expected, missing=missing)


class _BrokenStreamError(Exception):
    """The stream ended before its time."""


class _Segments:
    """Cuts a stream of bytes into parts of files that can be judged."""

    def __init__(self, work: _Work, ranges: list[Range]) -> None:
        self._unit = work.expected.unit
        self._coming = work.line.segments(ranges)
        self._now: Segment | None = next(self._coming, None)

    @property
    def left(self) -> bool:
        """More is to come."""
        return self._now is not None

    def cut(self, data: memoryview) -> tuple[Block, memoryview]:
        """Return the whole parts at the beginning of `data`, file by file, and what is left of it."""
        block: Block = []
        at = 0
        while self._now is not None:
            now, there = self._now, len(data) - at
            size = now.size if there >= now.size else there // self._unit * self._unit
            if not size:
                break
            part = now if size == now.size else Segment(now.path, now.offset, size, now.leaf)
            block.append((part, data[at : at + size]))
            at += size
            if size == now.size:
                self._now = next(self._coming, None)
            else:
                self._now = Segment(now.path, now.offset + size, now.size - size, part.end)
        if self._now is None and at < len(data):
            raise IntegrityFailed("a holder sent more than was asked for")
        return block, data[at:]


async def _lively(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass the stream on; raise `TimeoutError` when nothing comes for `STALL` seconds."""
    try:
        while True:
            async with asyncio.timeout(STALL):
                data = await anext(stream)
            yield data
    except StopAsyncIteration:
        return
    except CachedError as error:
        raise _BrokenStreamError(error.message) from error


async def _settle(writing: asyncio.Task[None] | None) -> None:
    if writing is not None:
        await asyncio.shield(writing)


def _choose(work: _Work, holders: Holders, prefer: str) -> Holder | None:
    """Return the complete holder to ask: with fewest failures, then the preferred, then a reachable one."""
    able = [holder for holder in holders() if holder.complete and holder.node_id not in work.bad]
    return min(
        able,
        key=lambda holder: (
            work.failures.get(holder.node_id, 0),
            holder.node_id != prefer,
            not holder.reachable,
        ),
        default=None,
    )


def _hopeless(work: _Work) -> CachedError:
    content = work.job.content
    if work.bad:
        return IntegrityFailed(
            f"no holder has the right bytes: {work.reason}",
            hint="run `cached verify --repair` on the holders",
            content=content,
            holders=sorted(work.bad),
        )
    return NoSource(f"nothing arrives: {work.reason}", hint="check that a holder is alive", content=content)

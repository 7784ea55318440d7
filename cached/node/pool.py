"""Pool: the nodes that want a content which no node has read it from the origin together, each block once.

Each member asks the keeper again and again what to do (`cached.replication.reading`): read blocks, or get them from a
member that has them. The keeper is the first live node in rendezvous order, whether it wants the content or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import msgspec

from cached import faults
from cached.critical import to_the_end
from cached.errors import (
    CachedError,
    Forbidden,
    IntegrityFailed,
    NoSource,
    OriginChanged,
    OriginUnavailable,
)
from cached.node import announce, ledger, origins, pooltable
from cached.node.meeting import Meeting
from cached.node.node import Node
from cached.node.parallel import each
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.origin.places import Places
from cached.origin.values import NODE_ACCOUNT
from cached.replication import placement, serving
from cached.replication.expected import Expected
from cached.replication.files import scan, write_block
from cached.replication.reading import ALONE, Ask, Share, block_leaves
from cached.replication.segments import LeafLine, Segment
from cached.replication.transfer import FetchJob

POOL_CLAIMED = faults.declare("pool.claimed")
POOL_READ = faults.declare("pool.read")
POOL_GOT = faults.declare("pool.got")

#: Blocks that one member reads, and gets, at the same time.
READING = 4
GETTING = 4
#: Seconds between two words to the keeper, at most; and at least.
TICK = 0.25
BREATH = 0.02
#: Seconds that a keeper has to answer, and for which one that did not so many times in a row is passed over.
PATIENCE = 1.5
SILENCES = 2
PASSED_OVER = 20.0
#: Seconds without a byte after which a member is left; bytes per second below which it is left all the same; and
#: seconds for which it is avoided then, twice as long each time, at most so many times.
STALL = 5.0
SLOWEST = 32 << 10
AVOIDED = 5.0
_DOUBLINGS = 6
#: Seconds after which a member whose reads failed for the moment may try again.
RECOVERED = 10.0
#: Times that a part is read whose bytes come wrong, before its reader stands back.
READS = 3
#: Parts of files of one block that are read at the same time.
PARTS = 8


async def draw(node: Node, known: Known, job: FetchJob, places: Places, holders: Meeting) -> None:
    """Bring a content into `job.data` from the origin and from those who read it too, verified.

    What is there already stays. Raises what keeps everybody from reading it: `OriginUnavailable`, `OriginChanged`,
    `Forbidden`, `NotFound`, `IntegrityFailed`; or `NoSpace`. Nothing reads or writes there any more when this returns.
    """
    job.progress.state = "checking"
    member = await to_the_end(asyncio.to_thread(_Member, node, known, job, places, holders))
    job.progress.state = "transferring"
    node.drawing.add(known.record.id)
    node.stirred.set(known.record.id)
    try:
        await member.run()
    finally:
        node.drawing.discard(known.record.id)
        node.keepers.pop(job.content, None)
        await member.end()
    job.progress.state, job.progress.reason = "done", ""


class _Member:
    """This node's part in one pool."""

    def __init__(self, node: Node, known: Known, job: FetchJob, places: Places, holders: Meeting) -> None:
        """Look at what is there; blocks."""
        self._node = node
        self._known = known
        self._job = job
        self._holders = holders
        self._where = places.pinned(job.manifest)
        self._line, self._expected = LeafLine(job.manifest), Expected(job.manifest, job.digests)
        self._size = block_leaves(job.manifest.total_bytes)
        self._count = -(-self._line.total // self._size)
        self._all = (1 << self._count) - 1
        self._have = self._present()
        job.progress.bytes_wanted = job.manifest.total_bytes
        job.progress.bytes_present = job.manifest.total_bytes - sum(
            self._new_bytes(block) for block in self._blocks() if not self._have >> block & 1
        )
        self._reading: dict[asyncio.Task[None], int] = {}
        self._getting: dict[asyncio.Task[None], tuple[int, str]] = {}
        #: Until when a keeper is passed over, or a member avoided.
        self._silent: dict[str, float] = {}
        self._avoided: dict[str, float] = {}
        #: How many times in a row each member gave nothing.
        self._failed: Counter[str] = Counter()
        self._joined: set[str] = set()
        self._unable: tuple[CachedError, float] | None = None
        self._fresh = True
        self._silences = 0
        #: When the last block came that the keeper had given, 0 before the first word; those read without its word.
        self._given = 0.0
        self._alone: set[int] = set()

    def _blocks(self) -> range:
        return range(self._count)

    def _range(self, block: int) -> tuple[int, int]:
        return block * self._size, min((block + 1) * self._size, self._line.total)

    def _bytes(self, block: int) -> int:
        return self._line.bytes_in([self._range(block)])

    def _new_bytes(self, block: int) -> int:
        segments = self._line.segments([self._range(block)])
        return sum(segment.size for segment in segments if segment.path not in self._job.linked)

    def _present(self) -> int:
        have = self._all
        for first, end in scan(self._job.data, self._line, self._expected, whole=self._job.linked):
            for block in range(first // self._size, -(-end // self._size)):
                have &= ~(1 << block)
        return have

    async def run(self) -> None:
        """Ask, read and get until all of it is here."""
        while self._have != self._all:
            answer = await self._ask()
            if answer is not None:
                self._begin(answer)
                if answer.hopeless and self._unable and not (self._reading or self._getting):
                    raise self._unable[0]
            self._help_oneself()
            await self._wait()
        await self._ask()  # so that the others know where all of it is

    async def end(self) -> None:
        """End what still runs; nothing writes any more then."""
        tasks = [*self._reading, *self._getting]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # What the keeper says

    async def _ask(self) -> Share | None:
        now = asyncio.get_running_loop().time()
        keeper = self._keeper(now)
        ask = self._words(now)
        if keeper == self._node.id:
            self._answered(keeper, now)
            return pooltable.answer(self._node, keeper, ask)
        try:
            said = await self._node.link.call(keeper, "origin.share", msgspec.to_builtins(ask), PATIENCE)
            answer = msgspec.convert(said, Share)
        except (CachedError, msgspec.ValidationError) as error:
            self._silences += 1
            if self._silences >= SILENCES:
                self._silent[keeper], self._silences = now + PASSED_OVER, 0
                self._node.counters.note("origin.keeper_silent", str(error), node=keeper[:8])
            return None
        if answer.keeper:
            self._silent[keeper] = now + TICK
            self._silent.pop(answer.keeper, None)
            return None
        self._answered(keeper, now)
        return answer

    def _answered(self, keeper: str, now: float) -> None:
        self._fresh, self._silences = False, 0
        self._node.keepers[self._job.content] = (keeper, now)

    def _keeper(self, now: float) -> str:
        able = [
            entry.record.id
            for entry in self._node.directory.nodes()
            if entry.alive
            and trusted_with(entry, self._known)
            and self._silent.get(entry.record.id, 0.0) <= now
        ]
        return placement.rendezvous(self._job.content, [*able, self._node.id])[0]

    def _words(self, now: float) -> Ask:
        failure = self._unable[0] if self._unable and self._unable[1] > now else None
        avoided = tuple(who for who, until in self._avoided.items() if until > now)
        return Ask(
            set=self._known.record.id,
            content=self._job.content,
            blocks=self._count,
            have=f"{self._have:x}",
            reading=f"{sum(1 << block for block in self._reading.values()):x}",
            getting={str(block): giver for block, giver in self._getting.values()},
            read=0 if failure or self._whole() else READING - len(self._reading),
            get=GETTING - len(self._getting),
            avoid=avoided,
            distrusted=tuple(who for who in avoided if self._failed[who] > 1),
            unable=failure.message if failure else "",
            code=failure.code if failure else "",
            readers=self._node.config.origin.readers,
            fresh=self._fresh,
        )

    def _whole(self) -> list[str]:
        """Return the nodes that have everything: what they have need not be read."""
        now = asyncio.get_running_loop().time()
        return [
            holder.node_id
            for holder in self._holders.direct()
            if self._avoided.get(holder.node_id, 0.0) <= now
        ]

    # What is done about it

    def _begin(self, answer: Share) -> None:
        busy = {*self._reading.values(), *(block for block, _ in self._getting.values())}
        for task, (_, giver) in self._getting.items():
            if giver in answer.silent:
                task.cancel()
        for block in answer.read:
            if self._lacks(block, busy):
                faults.point(POOL_CLAIMED)
                self._reading[self._task(self._read(block))] = block
        gifts = list(answer.get)
        if not gifts and not answer.read and not busy:
            gifts = self._from_whole()
        for block, giver in gifts:
            if self._lacks(block, busy):
                self._getting[self._task(self._get(block, giver))] = (block, giver)

    def _help_oneself(self) -> None:
        """Read what is missing by oneself, a block at a time, when the keeper has long led to nothing."""
        now = asyncio.get_running_loop().time()
        self._given = self._given or now
        if now - self._given <= ALONE or self._reading or self._unable or self._whole():
            return
        missing = [block for block in self._blocks() if not self._have >> block & 1]
        busy = {block for block, _ in self._getting.values()}
        block = random.choice(missing)
        if self._lacks(block, busy):
            self._node.counters.note(
                "origin.read_alone", "the others bring nothing", set=self._known.record.id[:8]
            )
            self._alone.add(block)
            self._reading[self._task(self._read(block))] = block

    def _lacks(self, block: int, busy: set[int]) -> bool:
        if not 0 <= block < self._count or block in busy or self._have >> block & 1:
            return False
        busy.add(block)
        return True

    def _from_whole(self) -> list[tuple[int, str]]:
        whole = self._whole()
        missing = [block for block in self._blocks() if not self._have >> block & 1][:GETTING]
        return [(block, whole[block % len(whole)]) for block in missing] if whole else []

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def _wait(self) -> None:
        tasks = [*self._reading, *self._getting]
        await asyncio.sleep(BREATH)
        if not tasks:
            await asyncio.sleep(TICK)
            return
        done, _ = await asyncio.wait(tasks, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._settle(task)

    def _settle(self, task: asyncio.Task[None]) -> None:
        block, giver = self._getting.pop(task, (-1, ""))
        block = block if giver else self._reading.pop(task)
        error = NoSource("it has fallen silent") if task.cancelled() else task.exception()
        if error is None:
            if block in self._alone:
                self._alone.discard(block)
            else:
                self._given = asyncio.get_running_loop().time()
            self._failed.pop(giver, None)
            self._have |= 1 << block
            progress, size = self._job.progress, self._new_bytes(block)
            progress.bytes_present += size
            progress.reason = ""
            source = giver or "origin"
            progress.by_source[source] = progress.by_source.get(source, 0) + size
            self._node.counters.add("origin.set_bytes_got" if giver else "origin.set_bytes_read", size)
            if not giver:
                ledger.spent_on(self._node, self._known.record.id, size, 1)
            return
        if not isinstance(error, CachedError):
            raise error
        self._job.progress.reason = error.message
        now = asyncio.get_running_loop().time()
        if giver:
            self._shun(giver, error, now)
            self._joined.discard(giver)
            self._node.counters.note("origin.not_got", error.message, node=giver[:8])
        elif isinstance(
            error, OriginUnavailable | OriginChanged | IntegrityFailed | Forbidden | NoSource
        ) or (error.code == "not_found"):
            self._unable = (error, now + RECOVERED)
            self._node.counters.note("origin.not_read", error.message, set=self._known.record.id[:8])
        else:  # no space, a failing disk: nothing that another source would change
            raise error

    def _shun(self, giver: str, error: CachedError, now: float) -> None:
        """Avoid a member that gave nothing; several blocks that fail together are one failure, wrong bytes are two."""
        if self._avoided.get(giver, 0.0) <= now:
            self._failed[giver] += 1
        if isinstance(error, IntegrityFailed):
            self._failed[giver] = max(2, self._failed[giver])
        self._avoided[giver] = now + AVOIDED * 2 ** min(self._failed[giver] - 1, _DOUBLINGS)

    async def _read(self, block: int) -> None:
        """Read one block from the origin, part by part of the files that lie in it."""
        await each(self._line.segments([self._range(block)]), self._read_part, width=PARTS)
        faults.point(POOL_READ)

    async def _read_part(self, segment: Segment) -> None:
        if segment.path in self._job.linked:
            return
        pinned = self._where[segment.path]
        start, stop = segment.offset, segment.offset + segment.size
        for left in reversed(range(READS)):
            data = await origins.port(self._node).read(pinned, start, stop, token=NODE_ACCOUNT)
            try:
                await self._write([(segment, memoryview(data))])
            except IntegrityFailed:
                wrong = f"{pinned.address} does not have the bytes of {segment.path!r}"
                if not left:
                    raise IntegrityFailed(wrong, path=segment.path) from None
                self._node.counters.note("origin.read_again", wrong, set=self._known.record.id[:8])
                ledger.spent_on(self._node, self._known.record.id, segment.size, 1)
            else:
                return

    async def _get(self, block: int, giver: str) -> None:
        """Get one block from another member."""
        await self._join(giver)
        query = {"content": self._job.content, "ranges": [list(self._range(block))]}
        received = bytearray()
        size = self._bytes(block)
        try:
            async with (
                asyncio.timeout(STALL + size / SLOWEST),
                contextlib.aclosing(self._node.link.fetch(giver, serving.STREAM, query)) as chunks,  # type: ignore[type-var]
            ):
                while len(received) < size:
                    async with asyncio.timeout(STALL):
                        received += await anext(chunks)
        except TimeoutError:
            raise NoSource("it sends nothing, or next to nothing") from None
        except StopAsyncIteration:
            raise NoSource("it broke off") from None
        if len(received) != size:
            raise IntegrityFailed("it sent more than was asked for")
        at, parts = 0, []
        for segment in self._line.segments([self._range(block)]):
            parts.append((segment, memoryview(received)[at : at + segment.size]))
            at += segment.size
        await self._write(parts)
        faults.point(POOL_GOT)

    async def _join(self, giver: str) -> None:
        """Have a member agree to send us the content."""
        if giver not in self._joined:
            body = {"set": self._known.record.id, "ad": announce.ad(self._node)}
            await self._node.link.call(giver, "source.join", body, STALL)
            self._joined.add(giver)

    async def _write(self, parts: list[tuple[Segment, memoryview]]) -> None:
        """Write in a thread, which has ended when this returns; never through a link."""
        parts = [(segment, data) for segment, data in parts if segment.path not in self._job.linked]
        work = asyncio.ensure_future(asyncio.to_thread(write_block, self._job, self._expected, parts))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise

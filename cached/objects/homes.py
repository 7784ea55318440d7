"""This node as the home of parts: it knows who fetches them, keeps them, and sends them to whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

from cached.critical import to_the_end
from cached.errors import CachedError, IntegrityFailed, NotFound
from cached.objects.assembly import Assembly
from cached.objects.claims import Claims
from cached.objects.copies import Wanted
from cached.objects.neighbours import (
    LONGEST_WAIT,
    Answer,
    Asked,
    Given,
    Neighbours,
    Part,
    PartWanted,
    Renewed,
    longest,
)
from cached.objects.proof import let_go, proven
from cached.objects.tiers import Tiers

#: Parts that are known to lie with the node that fetched them, because there was no room here.
_MOST_ELSEWHERE: Final = 10_000
#: Parts that one node may hand over at the same time.
_MOST_GIVEN: Final = 8
#: Bytes sent at a time.
_PIECE: Final = 1 << 20
_ALONE: Final = Answer(what="alone")


class Writer(Protocol):
    """The sending end of a stream, as `cached.peers` hands it over."""

    def length(self, total: int) -> None:
        """Say before the first write how many bytes will come."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the receiver is slow."""


class Homes:
    """The parts that this node is the home of.

    `now` is any clock in seconds that only goes forward, `wall` the wall clock.
    """

    def __init__(
        self,
        tiers: Tiers,
        neighbours: Neighbours,
        *,
        count: Callable[[str], None],
        new_id: Callable[[], str],
        now: Callable[[], float],
        wall: Callable[[], float],
        block: int,
    ) -> None:
        self._tiers = tiers
        self._neighbours = neighbours
        self._count = count
        self._new_id = new_id
        self._now = now
        self._wall = wall
        self._block = block
        self._giving: Counter[str] = Counter()
        self._claims = Claims()
        self._news: dict[tuple[str, int], asyncio.Event] = {}
        self._listening: Counter[tuple[str, int]] = Counter()
        self._elsewhere: OrderedDict[str, str] = OrderedDict()
        #: Nodes that cut objects into parts of another size, and that size: `[objects] block` differs.
        self.differing: dict[str, int] = {}
        #: Objects on their way to this node, by digest.
        self._coming: dict[str, Assembly] = {}

    @contextlib.contextmanager
    def shown(self, assembly: Assembly) -> Iterator[None]:
        """Let others have the parts of an object that is on its way here, while the context lasts."""
        self._coming[assembly.key.digest] = assembly
        try:
            yield
        finally:
            self._coming.pop(assembly.key.digest, None)

    async def ask(self, asker: str, asked: Asked) -> Answer:
        """Tell `asker` (a node id) how it gets a part; waits as long as it would wait.

        Parts of another size than this node's are its own affair, unless the whole object is here.
        """
        part, block = asked.part, (asked.part.key.digest, asked.part.index)
        if not self._fits(part, asker):
            return Answer(what="have", node=self._neighbours.me) if self._has(part.key.digest) else _ALONE
        ends = self._now() + min(asked.wait, LONGEST_WAIT)
        if asked.failed and self._elsewhere.get(part.name) == asked.failed:
            del self._elsewhere[part.name]
        await self._prove(part)
        while True:
            if (where := self._where(part, asker)) is not None:
                return Answer(what="have", node=where)
            answer = self._claims.ask(block, asker, self._new_id(), self._now())
            if answer.what != "wait":
                return Answer(what=answer.what, claim=answer.claim)
            left = min(ends - self._now(), answer.seconds + 0.05)
            if left <= 0:
                return Answer(what="wait")
            await self._until_news(block, left)

    async def give(self, giver: str, given: Given) -> None:
        """Take a part over from `giver` (a node id) if the claim is its own and there is room; wake who waits."""
        block = self._claims.accepts(given.claim, giver)
        if block is None or (block != (given.part.key.digest, given.part.index) and not given.failed):
            return
        self._giving[giver] += 1
        try:
            if not given.failed and giver != self._neighbours.me and not await self._take(giver, given):
                self._elsewhere[given.part.name] = giver
                while len(self._elsewhere) > _MOST_ELSEWHERE:
                    self._elsewhere.popitem(last=False)
        finally:
            self._giving[giver] -= 1
            self._claims.done(given.claim, giver)
            self._tell(block)

    async def renew(self, holder: str, renewed: Renewed) -> None:
        """Keep the claims of a node that still works at them."""
        for claim in renewed.claims:
            self._claims.renew(claim, holder, self._now())

    def gone(self, node: str) -> None:
        """Free the claims of a node that is gone, at once."""
        for block in self._claims.leave(node):
            self._tell(block)

    async def send(self, wanted: PartWanted, writer: Writer) -> None:
        """Send the bytes of a part. Raises `NotFound` when it is not here."""
        writer.length(wanted.part.stop - wanted.part.start)
        async for data in self.parts(wanted):
            await writer.write(data)

    async def parts(self, wanted: PartWanted) -> AsyncIterator[bytes]:
        """Yield the bytes of a part. Raises `NotFound` when it is not here."""
        part = wanted.part
        with contextlib.ExitStack() as after:
            found = self._opened(part, wanted.user, after)
            if found is None:
                raise NotFound("that part of the object is not here (any more)")
            fd, at = found
            stop = at + part.stop - part.start
            while at < stop:
                data = await to_the_end(asyncio.to_thread(os.pread, fd, min(_PIECE, stop - at), at))
                if not data:
                    raise NotFound("that part of the object is not here any more")
                at += len(data)
                yield data

    def _fits(self, part: Part, asker: str) -> bool:
        """Say whether a part is one of those that this node cuts objects into."""
        if part.number is None and part.size <= self._block:
            return True
        if part.block == self._block:
            self.differing.pop(asker, None)
            return True
        self._count("objects.block_differs")
        self.differing[asker] = part.block
        return False

    async def _prove(self, part: Part) -> None:
        """Compare the copy of a part with its checksum, once a boot: nothing synced it to disk."""
        entry = self._tiers.lookup(part.name)
        if entry is None or self._tiers.is_verified(entry) or entry.size > part.block:
            return
        copy = self._tiers.open(part.name, "", self._wall())
        if copy is not None and await proven(self._tiers, copy, self._count) is not None:
            let_go(self._tiers, copy)

    def _has(self, name: str) -> bool:
        entry = self._tiers.lookup(name)
        return entry is not None and self._tiers.is_verified(entry)

    def _where(self, part: Part, asker: str) -> str | None:
        if self._has(part.name) or self._has(part.key.digest):
            return self._neighbours.me
        coming = self._coming.get(part.key.digest)
        if coming is not None and coming.has(part.index):
            return self._neighbours.me
        where = self._elsewhere.get(part.name)
        if where is not None and (where == asker or where not in self._neighbours.present("")):
            del self._elsewhere[part.name]
            return None
        return where

    def _opened(self, part: Part, user: str, after: contextlib.ExitStack) -> tuple[int, int] | None:
        """Return a descriptor and where the part begins in it; what it takes to let go of it goes to `after`."""
        alike = part.number is None or part.block == self._block
        for name, at in ((part.key.digest, part.start), *([(part.name, 0)] if alike else [])):
            copy = self._tiers.open(name, user, self._wall()) if self._has(name) else None
            if copy is not None:
                after.callback(self._tiers.release, copy.entry)
                after.callback(os.close, copy.fd)
                return copy.fd, at
        coming = self._coming.get(part.key.digest)
        if coming is None or coming.parts[part.index : part.index + 1] != [(part.start, part.stop)]:
            return None
        if not coming.has(part.index):
            return None
        fd = os.dup(coming.fd)
        after.callback(os.close, fd)
        return fd, part.start

    async def _take(self, giver: str, given: Given) -> bool:
        """Keep a part that another node has fetched; False when there is no room, or it cannot be had."""
        part = given.part
        if not self._fits(part, giver) or self._giving[giver] > _MOST_GIVEN:
            self._count("objects.gift_refused")
            return False
        place = await self._tiers.reserve(
            Wanted(
                key=part.key,
                size=part.stop - part.start,
                block=part.number,
                user=given.user,
                scope=given.scope,
            )
        )
        if place is None:
            self._count("objects.home_full")
            return False
        try:
            copy = Assembly(part.key, part.stop - part.start, place.writing.fd, part.block)
            chunks = self._neighbours.bytes_of(giver, PartWanted(part=part, user=given.user))
            async with asyncio.timeout(longest(part)):
                await copy.take(0, "peer", chunks)
            if copy.crc() != given.crc32c:
                raise IntegrityFailed("a part came with other bytes than its giver had")
        except BaseException as error:
            await to_the_end(self._tiers.abandon(place))
            self._count("objects.give_failed")
            if not isinstance(error, CachedError | TimeoutError):
                raise
            return False
        await self._tiers.seal(place, given.crc32c, self._wall())
        return True

    async def _until_news(self, block: tuple[str, int], seconds: float) -> None:
        event = self._news.setdefault(block, asyncio.Event())
        self._listening[block] += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
        finally:
            self._listening[block] -= 1
            if not self._listening[block]:
                del self._listening[block]
                self._news.pop(block, None)

    def _tell(self, block: tuple[str, int]) -> None:
        """Wake all who wait for news of a block; they ask again."""
        if block in self._news:
            self._news.pop(block).set()

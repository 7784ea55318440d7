"""Turns at something of which there are few: who asks for many waits for them, and nobody else does.

A semaphore serves in the order of asking, so one user's thousand reads would go before the one read of everybody else.
Here those who ask take turns, one after the other, and none of them has all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable

#: None: the node itself.
Who = Hashable


class Turns:
    """So many turns at a time; one of those who ask has `each` of them at most."""

    def __init__(self, count: int, each: int | None = None) -> None:
        self._free = count
        self._each = count if each is None else each
        self._having: Counter[Who] = Counter()
        #: Who waits, whoever is to be served next first; each in the order of asking.
        self._waiting: OrderedDict[Who, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, who: Who) -> AsyncIterator[None]:
        """Have a turn, and wait for it if need be."""
        await self._take(who)
        try:
            yield
        finally:
            self._give_back(who)

    async def _take(self, who: Who) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(mine)
        self._serve()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._forget(who, mine)
            else:
                self._give_back(who)
            raise

    def _give_back(self, who: Who) -> None:
        self._free += 1
        self._having[who] -= 1
        if not self._having[who]:
            del self._having[who]
        self._serve()

    def _serve(self) -> None:
        for who in list(self._waiting):
            if not self._free:
                return
            self._serve_one(who)

    def _serve_one(self, who: Who) -> None:
        """Give one turn to the first of who waits, and have the others go before the rest."""
        if self._having[who] >= self._each:
            return
        while (queue := self._waiting.get(who)) is not None:
            first = queue.popleft()
            if queue:
                self._waiting.move_to_end(who)
            else:
                del self._waiting[who]
            if not first.done():
                self._free -= 1
                self._having[who] += 1
                first.set_result(None)
                return

    def _forget(self, who: Who, mine: asyncio.Future[None]) -> None:
        queue = self._waiting.get(who)
        if queue is not None and mine in queue:
            queue.remove(mine)
            if not queue:
                del self._waiting[who]

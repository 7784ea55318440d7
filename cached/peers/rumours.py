"""Fresh news goes to a few nodes at once, gathered for a moment so that a burst travels as one message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from cached.errors import CachedError
from cached.peers.gossip import Gossip, News

log = logging.getLogger(__name__)


class Rumours:
    """What this node has learned and not yet passed on; `listeners` chooses the nodes that are told."""

    def __init__(self, gossip: Gossip, listeners: Callable[[], list[str]], wait: float) -> None:
        self._gossip = gossip
        self._listeners = listeners
        self._wait = wait
        self._nodes: set[str] = set()
        self._sets: set[str] = set()
        self._revocations = False
        self._dirty = asyncio.Event()
        #: When what there is goes, by the loop's clock.
        self._due = float("inf")

    def spread(
        self,
        *,
        nodes: Iterable[str] = (),
        sets: Iterable[str] = (),
        revocations: bool = False,
        within: float | None = None,
    ) -> None:
        """Have this passed on: soon, or with whatever goes next, but `within` so many seconds."""
        self._nodes.update(nodes)
        self._sets.update(sets)
        self._revocations |= revocations
        if self._nodes or self._sets or self._revocations:
            wait = self._wait if within is None else within
            self._due = min(self._due, asyncio.get_running_loop().time() + wait)
            self._dirty.set()

    async def run(self) -> None:
        """Pass news on as it comes, until cancelled."""
        while True:
            await self._until_due()
            try:
                await self.tell(self._take())
            except Exception:
                log.exception("news could not be passed on")

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        await self._dirty.wait()
        while (left := self._due - loop.time()) > 0:
            self._dirty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._dirty.wait()  # what came may be due sooner
        self._dirty.clear()
        self._due = float("inf")

    async def tell(self, news: News) -> None:
        """Tell the listeners of the moment; those that do not answer are left to the next swap."""
        await asyncio.gather(*(self._tell(one, news) for one in self._listeners()))

    def _take(self) -> News:
        nodes, self._nodes = self._nodes, set()
        sets, self._sets = self._sets, set()
        revocations, self._revocations = self._revocations, False
        return self._gossip.rumour(nodes, sets, revocations=revocations)

    async def _tell(self, node_id: str, news: News) -> None:
        try:
            await self._gossip.tell(node_id, news)
        except CachedError as error:
            log.debug("news for node %s: %s", node_id[:8], error)

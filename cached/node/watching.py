"""Watching: whoever looks at a set on its way asks those who receive it; all others hear of that seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from cached.errors import CachedError
from cached.node import announce
from cached.node.node import Node
from cached.peers.records import Holding

#: Seconds between two rounds of questions, how long an answer may take, and how long for who looks once.
ASK = 2.0
WAIT = 1.0
GLANCE = 0.3
#: Most nodes that are asked in one round; who was not asked comes first in the next.
AT_ONCE = 32
#: Name of the question.
METHOD = "set.progress"


class Sight:
    """How far the nodes are that receive a set, as they say themselves."""

    def __init__(self, node: Node, set_id: str) -> None:
        self._node = node
        self._set_id = set_id
        #: What they said last, by node id, and when that was, by the event loop's clock.
        self.told: dict[str, Holding] = {}
        self._asked: dict[str, float] = {}

    async def ask(self, wait: float = WAIT) -> None:
        """Ask those who are receiving the set now; who does not answer in time keeps what was heard of it."""
        coming = [
            entry.node.record.id
            for entry in self._node.holders(self._set_id)
            if entry.node.alive
            and entry.node.record.id != self._node.id
            and entry.holding.state in ("REQUESTED", "TRANSFERRING")
        ]
        self.told = {node_id: told for node_id, told in self.told.items() if node_id in coming}
        first = sorted(coming, key=lambda node_id: self._asked.get(node_id, 0.0))[:AT_ONCE]
        await asyncio.gather(*(self._ask(node_id, wait) for node_id in first))

    async def _ask(self, node_id: str, wait: float) -> None:
        self._asked[node_id] = asyncio.get_running_loop().time()
        with contextlib.suppress(CachedError, msgspec.ValidationError):
            answer = await self._node.link.call(node_id, METHOD, {"set": self._set_id}, wait)
            self.told[node_id] = msgspec.convert(answer, Holding)


@contextlib.asynccontextmanager
async def watched(node: Node, set_id: str) -> AsyncIterator[Sight]:
    """Give a sight that is renewed for as long as the block runs."""
    sight = Sight(node, set_id)

    async def look() -> None:
        while True:
            await sight.ask()
            await asyncio.sleep(ASK)

    task = asyncio.create_task(look())
    try:
        yield sight
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def answer(node: Node, set_id: str) -> Holding | None:
    """Return this node's replica of a set as it is now; None when it has none."""
    row = node.shelf.replicas.get(set_id)
    return announce.holding(node, row) if row is not None else None

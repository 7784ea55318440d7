"""What happened since the replicas of sets were last looked after: which sets, and which other nodes, it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What to look at."""

    everything: bool = False
    sets: frozenset[str] = frozenset()
    #: Ids of nodes that came, went or say something new.
    nodes: frozenset[str] = frozenset()


@dataclass(slots=True)
class Stir:
    """Gathers what happens; belongs to one event loop."""

    _event: asyncio.Event = field(default_factory=asyncio.Event)
    _everything: bool = False
    _sets: set[str] = field(default_factory=set)
    _nodes: set[str] = field(default_factory=set)

    def set(self, set_id: str = "") -> None:
        """Have one set looked at, or all."""
        if set_id:
            self._sets.add(set_id)
        else:
            self._everything = True
        self._event.set()

    def moved(self, node_ids: Iterable[str]) -> None:
        """Have the sets looked at that these nodes might hold."""
        self._nodes.update(node_ids)
        self._event.set()

    async def wait(self) -> None:
        """Return once something has happened."""
        await self._event.wait()

    def take(self) -> News:
        """Return what has happened since this was last asked."""
        news = News(everything=self._everything, sets=frozenset(self._sets), nodes=frozenset(self._nodes))
        self._event.clear()
        self._everything = False
        self._sets.clear()
        self._nodes.clear()
        return news

"""Which of those that fetch a set, too, are a node's neighbours in the swarm: chosen once, and kept (ADR 42).

A rule, free of I/O and clocks. A node's line is shared by all that are connected with it, one as much as the other: who
has neighbours with more connections than others have is behind everybody at the end.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from cached.replication import mesh

#: Seconds for which the neighbours that an offer named stand for those whom all that fetch would choose: until then a
#: node may not have heard of all.
NAMED: Final = 10.0
#: Others are chosen once fewer are left with whom it has met, but not within so many seconds of the last choice.
ENOUGH: Final = 6
SETTLE: Final = 5.0
#: Most neighbours, those that came by themselves included.
MOST: Final = 2 * mesh.FULL_MESH


class Neighbours:
    """The neighbours of one node among those that fetch one set; times are seconds of one steady clock."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        #: The neighbours that an offer named, and until when it is taken at its word.
        self.named: frozenset[str] = frozenset()
        self._until = 0.0
        self.chosen: set[str] = set()
        #: Those that came by themselves, and when; until when nobody else is chosen.
        self._came: dict[str, float] = {}
        self._settled = 0.0

    def name(self, named: Collection[str], now: float) -> None:
        """Take up whom an offer named."""
        self.named = frozenset(named) - {self._node_id}
        self._until = now + NAMED

    def trusts_names(self, now: float) -> bool:
        """Tell whether those whom an offer named are the neighbours."""
        return bool(self.named) and now < self._until

    def came(self, node_id: str, now: float) -> bool:
        """Take in a neighbour that came by itself, which may tell of the set only later; return if there is room."""
        room = node_id in self.chosen or len(self.chosen) < MOST
        if room:
            self._came[node_id] = now
            self.chosen.add(node_id)
        return room

    def choose(self, *, coming: set[str], told: set[str], present: set[str], now: float) -> None:
        """Choose among those that are `coming` by it.

        Of all who have `told` that they are getting it, or have it, those chosen stay, though nothing be heard of them
        for a while; others are added when too few of them are `present`: have been met, and live.
        """
        coming = coming - {self._node_id}
        told = told | {one for one, when in self._came.items() if now - when < NAMED}
        stay = self.chosen & told
        if self.trusts_names(now):
            self.chosen = told & (self.named | self._came.keys())
        elif len(coming) < mesh.FULL_MESH:
            self.chosen = stay | coming
        elif now >= self._settled and len(stay & present) < ENOUGH:
            self.chosen = stay | mesh.fellows(self._node_id, coming)
            self._settled = now + SETTLE
        else:
            self.chosen = stay

"""Hits in memory that are counted together: counting one costs a third of what opening it does.

Within a moment a job opens the same copies again and again. Such hits are noted, and counted once for all of them
after a moment, or when somebody wants to know the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from cached.objects.entry import Entry

#: Seconds that a hit waits until it is counted, at most.
MOMENT: Final = 0.1
#: Kinds of hits that wait, at most.
MOST: Final = 1000


class Hit(NamedTuple):
    """Hits that differ in nothing."""

    #: Known by its identity, not by what it is a copy of.
    entry: Entry
    user: str
    scope: str


class Hits:
    """Hits that are not counted yet; `count(hit, times)` does it."""

    def __init__(self) -> None:
        self.count: Callable[[Hit, int], None] = lambda _hit, _times: None
        self._waiting: dict[Hit, int] = {}

    def note(self, hit: Hit) -> None:
        """Note a hit; to be called in an event loop."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_later(MOMENT, self.settle)
        waiting[hit] = waiting.get(hit, 0) + 1
        if len(waiting) >= MOST:
            self.settle()

    def settle(self) -> None:
        """Count what waits."""
        waiting, self._waiting = self._waiting, {}
        for hit, times in waiting.items():
            self.count(hit, times)

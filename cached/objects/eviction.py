"""Which copies go when room is wanted: GreedyDual-Size-Frequency with a cost that has a fixed part.

Score of a copy = age when it was last used + uses x cost / size (L. Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69). The lowest go first. Three things differ from the paper:

- The age is the bytes read so far as a multiple of what the tiers hold, not the score of the last victim. Costs are
  nearly proportional to sizes here, so scores would fall into few classes and the age would move in jumps, and not at
  all while everything fits and only the better places are fought for.
- Only the third use counts for more, and only up to a limit. In a batch much is written, read once and never again, and
  much use yesterday promises little for tomorrow.
- The cost is the bytes and a fixed part for the request, in bytes that could have been moved meanwhile. Without it the
  size would cancel; without a limit nothing small would ever go.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, Literal

#: Where the bytes come from when they are wanted again.
Source = Literal["origin", "peer", "redis"]
#: Why a copy went: others wanted the room; the other tier has it as well; a user emptied the cache; its scope ended; a
#: newer generation is here; it was deleted in Cloud Storage; its checksum was wrong; its file is gone; nobody knows the
#: file; the tier was made smaller.
Reason = Literal[
    "room", "twin", "cleared", "scope", "replaced", "deleted", "damaged", "lost", "unknown", "smaller"
]

#: What a request costs besides its bytes, in bytes.
LATENCY: Final[dict[Source, int]] = {"origin": 512 << 10, "peer": 16 << 10, "redis": 4 << 10}
#: What a byte costs; the origin's is 1.
PRICE: Final[dict[Source, float]] = {"origin": 1.0, "peer": 0.25, "redis": 0.25}
#: Highest cost per byte.
DEAREST: Final = 4.0
#: Uses that count for no more than the first.
FEW: Final = 2
#: Uses beyond so many change nothing.
ENOUGH: Final = 6
#: How much longer a copy stays for one use more, in the unit of the age.
REACH: Final = 1.0


def worth(size: int, frequency: int, source: Source) -> float:
    """Return how much longer a copy stays than one that is worth nothing, in the unit of the age."""
    uses = 1 + max(0, min(frequency, ENOUGH) - FEW)
    return REACH * uses * min(DEAREST, LATENCY[source] / max(1, size) + PRICE[source])


class Ranking:
    """The copies of one tier, the least worth first; each has one score at a time."""

    def __init__(self) -> None:
        self._ranks: dict[str, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, name: str, score: float) -> None:
        """Rank a copy, or change its place; of equal ones the one that was ranked first goes first."""
        self._serial += 1
        self._ranks[name] = (score, self._serial)
        heapq.heappush(self._heap, (score, self._serial, name))
        if len(self._heap) > 64 + 4 * len(self._ranks):
            self._heap = [one for one in self._heap if self._stands(one)]
            heapq.heapify(self._heap)

    def remove(self, name: str) -> None:
        """Forget a copy; one that is not ranked is no error."""
        self._ranks.pop(name, None)

    def victims(
        self, wanted: int, gives: Callable[[str], int], below: float | None = None
    ) -> list[str] | None:
        """Return the least worthy copies that together give back `wanted` bytes, in order; None: not that many.

        `gives` says what a copy gives back, 0 for one that must stay. With `below`, none that scores as high may
        go. The ranking does not change.
        """
        chosen: list[str] = []
        seen: list[tuple[float, int, str]] = []
        while wanted > 0 and self._heap:
            one = heapq.heappop(self._heap)
            if not self._stands(one):
                continue
            seen.append(one)
            if below is not None and one[0] >= below:
                break
            given = gives(one[2])
            if given > 0:
                chosen.append(one[2])
                wanted -= given
        for one in seen:
            heapq.heappush(self._heap, one)
        return chosen if wanted <= 0 else None

    def _stands(self, one: tuple[float, int, str]) -> bool:
        return self._ranks.get(one[2]) == one[:2]

"""What the news of other nodes may cost: questions to Cloud Storage, so many at once and so many in a second."""

from __future__ import annotations

from collections import Counter
from typing import Final

#: Questions that one node's news may cause at once, and in a second.
BURST: Final = 100
RATE: Final = 5.0


class Credit:
    """The accounts of all nodes that told something; `now` is any clock in seconds that only goes forward."""

    def __init__(self, burst: float = BURST, rate: float = RATE) -> None:
        self._burst = burst
        self._rate = rate
        self._left: dict[str, tuple[float, float]] = {}
        #: News that were not true, by the node that told them.
        self.false: Counter[str] = Counter()

    def spend(self, node: str, now: float) -> bool:
        """Take one question from a node's account; False: it has none left."""
        left, since = self._left.get(node, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._left[node] = (left - 1 if left >= 1 else left, now)
        return left >= 1

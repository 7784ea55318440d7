"""Whether bytes come more slowly than they once did, though others have what is lacking.

A rule, free of I/O and clocks; times are seconds.
"""

from __future__ import annotations

from collections import deque

#: Seconds over which a rate is taken.
_SPAN = 2.0
#: Below that share of its best rate a member is hungry.
_ENOUGH = 0.8


class Appetite:
    """One member's rates, from what it had at each look."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._best = 0.0
        #: Its rate is far below the best that it had.
        self.hungry = False

    def see(self, have: int, now: float) -> None:
        """Take note of how many bytes are here."""
        while len(self._seen) > 1 and now - self._seen[1][0] >= _SPAN:
            self._seen.popleft()
        self._seen.append((now, have))
        since, before = self._seen[0]
        if now - since < _SPAN:
            return
        rate = (have - before) / (now - since)
        self._best = max(self._best, rate)
        self.hungry = rate < _ENOUGH * self._best

"""Pieces that do not get on: for seconds nobody has had them besides the source, or one member alone.

A rule, free of I/O and clocks; times are seconds. Sets of pieces are integers, see `partition`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cached.replication.partition import bits_of

#: Seconds between two looks that count, and how many of them a piece must be rare in.
_APART = 1.0
_LOOKS = 4


class Rare:
    """What one member has seen of how rare pieces are."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=_LOOKS)
        self._at = float("-inf")
        #: Pieces that have been rare for three seconds at least.
        self.stuck = 0

    def see(self, availability: Sequence[int], sources: int, now: float) -> None:
        """Take note of how many connected members have each piece, `sources` of which are the source."""
        if now - self._at < _APART:
            return
        self._at = now
        self._seen.append(bits_of(piece for piece, count in enumerate(availability) if count <= sources + 1))
        self.stuck = self._seen[0] if len(self._seen) == _LOOKS else 0
        for rare in self._seen:
            self.stuck &= rare

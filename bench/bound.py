"""What links allow: the least time in which a set can be on many nodes. Pure arithmetic.

Rates are Mbit/s of the line. TCP carries `GOODPUT` of it: 1448 bytes of each packet of 1500, and Ethernet's 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Share of a line's rate that is left for the bytes that TCP carries.
GOODPUT: Final = 0.956


def bytes_per_second(rate: float) -> float:
    """Return what TCP carries over a line of so many Mbit/s."""
    return rate * 1e6 / 8 * GOODPUT


def bound(size: int, source_rate: float, rates: Sequence[float]) -> float:
    """Return the fewest seconds in which `size` bytes can be on all receivers; each link goes both ways.

    The source must send everything once, the slowest receiver must take everything, and all of them together
    cannot send more than what they are to receive.
    """
    u, d = bytes_per_second(source_rate), [bytes_per_second(rate) for rate in rates]
    return max(size / u, size / min(d), len(d) * size / (u + sum(d)))


def alone(size: int, source_rate: float, rate: float, others: int) -> float:
    """Return the fewest seconds in which one node can have it that comes late, when `others` have it already."""
    senders = bytes_per_second(source_rate) + others * bytes_per_second(rate)
    return size / min(senders, bytes_per_second(rate))

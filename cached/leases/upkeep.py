"""When contents are verified again, how fast, and when a repair that failed is tried again: rules, no clocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

#: Seconds after which a content is verified again.
INTERVAL: Final = 7 * 86_400.0
#: Bytes a second that are read for it at least, however little there is: jobs read at the same time.
RATE: Final = 20_000_000
#: Bytes a second that are read where damage is suspected.
FAST: Final = 256_000_000
#: Share of the interval in which all contents are to be verified; the rest is for pauses.
_BUSY: Final = 0.5
#: Seconds until a repair is tried again: the first time, and at most.
_FIRST: Final = 5.0
_MOST: Final = 600.0


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A content of one tier, and when it was known to be whole."""

    content: str
    tier: str
    bytes: int
    #: Unix seconds.
    wall: float


def next_due(contents: Iterable[Verified], wall: float) -> Verified | None:
    """Return what to verify now, the oldest verification first; None while all of them are recent.

    A verification that the clock places in the future says nothing, and counts as the oldest.
    """
    due = [one for one in contents if not 0 <= wall - one.wall < INTERVAL]
    return min(due, key=lambda one: (one.wall <= wall, one.wall, one.content, one.tier), default=None)


def rate(total_bytes: int) -> int:
    """Return the bytes a second to read, so that all contents together are verified in time."""
    return max(RATE, int(total_bytes / (INTERVAL * _BUSY)))


def retry_after(attempts: int) -> float:
    """Return the seconds to wait after so many repairs that failed in a row."""
    return min(_MOST, _FIRST * 2.0 ** min(attempts - 1, 20)) if attempts > 0 else 0.0

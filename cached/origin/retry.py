"""How long to wait before asking again, and when to give up: a rule, which is told the time and the dice.

Exponential backoff with full jitter in its upper half, as Cloud Storage's "Retry strategy" asks for.
"""

from __future__ import annotations

from typing import Final

FIRST: Final = 0.5
LONGEST: Final = 30.0
#: So many bytes in one attempt are progress: patience begins anew.
PROGRESS: Final = 256 * 1024


def delay(attempt: int, dice: float, *, first: float = FIRST, longest: float = LONGEST) -> float:
    """Return the seconds to wait after failure number `attempt` (from 0); `dice` in [0, 1) spreads the askers."""
    ceiling = min(longest, first * 2.0 ** min(attempt, 32))
    return ceiling * (0.5 + dice / 2)


class Patience:
    """The failures of one piece of work since it last got on.

    `limit` is in seconds, `now` is a monotonic clock's; `first` is the shortest wait.
    """

    def __init__(self, limit: float, now: float, *, first: float = FIRST) -> None:
        self._limit = limit
        self._since = now
        self._first = first
        self._failures = 0

    def wait(self, now: float, dice: float, *, moved: int = 0) -> float | None:
        """Return how long to wait before the next attempt; None when it would begin after the limit.

        `moved` is how many bytes the attempt brought before it failed.
        """
        if moved >= PROGRESS:
            self._since, self._failures = now, 0
        seconds = delay(self._failures, dice, first=self._first)
        self._failures += 1
        return seconds if now + seconds - self._since <= self._limit else None

    @property
    def failures(self) -> int:
        """How many attempts have failed since there was progress."""
        return self._failures

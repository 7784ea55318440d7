"""When to stop asking something that does not answer, and when to try it again.

A circuit breaker (M. Nygard, "Release It!", ch. 5). Closed, everything passes. After `limit` failures in a
row, or after one that had to be waited for, it opens: nothing passes, and only a probe may ask, first after
`first` seconds, then after twice as long each time, at most `longest`. A probe that succeeds closes it. What
fails again soon after, opens it with the delay where it was, so that something that answers probes alone
costs its users no more than something that is dead.

Times are seconds of any one clock that never runs backwards.
"""

from __future__ import annotations

from typing import Final

#: Failures in a row that open a breaker.
LIMIT: Final = 3
#: Seconds until the first probe.
FIRST: Final = 0.5
#: Seconds between probes, at most.
LONGEST: Final = 30.0


class Breaker:
    """Whether one thing may be asked now; closed in the beginning."""

    def __init__(self, *, limit: int = LIMIT, first: float = FIRST, longest: float = LONGEST) -> None:
        self._limit, self._first, self._longest = limit, first, longest
        self._failures = 0
        self._delay = 0.0
        self._closed_at: float | None = None
        self._probing = False
        #: Since when it is open; None while it is closed.
        self.open_since: float | None = None
        #: When the next probe is due; None while it is closed or a probe is under way.
        self.probe_at: float | None = None

    @property
    def closed(self) -> bool:
        """Tell whether users may ask."""
        return self.open_since is None

    def succeeded(self) -> None:
        """Take note that a user got an answer."""
        self._failures = 0

    def failed(self, now: float, *, waited: bool = False) -> bool:
        """Take note that a user got none, at once or after a wait; return whether this opened it.

        Failures of users who had asked before it opened change nothing.
        """
        if not self.closed:
            return False
        self._failures += self._limit if waited else 1
        if self._failures < self._limit:
            return False
        lasted = self._closed_at is None or now - self._closed_at >= self._longest
        self._delay = self._first if lasted else self._longer()
        self.open_since, self.probe_at = now, now + self._delay
        return True

    def probe(self, now: float) -> bool:
        """Tell whether the caller may probe now; one at a time, and it must say how that ended."""
        if self.probe_at is None or now < self.probe_at:
            return False
        self.probe_at, self._probing = None, True
        return True

    def probed(self, now: float, *, answered: bool) -> bool:
        """Take note of how the probe ended; return whether this closed it."""
        if not self._probing:
            return False
        self._probing = False
        if not answered:
            self._delay = self._longer()
            self.probe_at = now + self._delay
            return False
        self._failures, self._closed_at, self.open_since = 0, now, None
        return True

    def _longer(self) -> float:
        return min(2 * self._delay, self._longest)

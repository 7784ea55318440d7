"""Staying awake for what comes soon, instead of going to sleep and being woken.

To be woken takes 20 to 60 us where each processor belongs to a virtual machine, and who wakes pays as well: together as
much as all else that an open does. Who asks again and again meanwhile has it at once, and keeps a processor from others
for that long. So it is done for a moment only, where there is a second processor for the other side, nobody else wants
this one, and as long as it pays: after a vigil in vain the next ones are left out, twice as many each time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

#: Longest vigil, in seconds: what is asked of somebody at rest is mostly there by then.
LONGEST: Final = 0.000_2
#: Occasions in a row that are left out, at most, before another vigil shows whether it pays again.
MOST_LEFT_OUT: Final = 255
#: What a vigil that pays leaves of the pause after the next one in vain: it gains less than that one costs.
_REWARD: Final = 3 / 4
#: Occasions between two looks at whether others want the processor.
LOOK_EVERY: Final = 64
#: They do when this thread waits for it for more than this part of the time.
CROWDED: Final = 1 / 16


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def waited() -> float:
    """Return for how many seconds this thread has waited for a processor in its life; where nobody knows, for ever."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as stat:
            return int(stat.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return float("inf")


def crowd() -> bool:
    """Say whether more threads of this machine want a processor than there are; also where nobody knows."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as load:
            return int(load.read().split()[3].partition(b"/")[0]) > (os.cpu_count() or 1)
    except (OSError, ValueError, IndexError):
        return True


class Vigil(threading.local):
    """Whether to stay awake the next time, judged by the last ones; each thread judges for itself."""

    def __init__(
        self,
        longest: float = LONGEST,
        *,
        clock: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float] = waited,
        crowd: Callable[[], bool] = crowd,
        processors: Callable[[], int] = _processors,
    ) -> None:
        """`longest` is in seconds."""
        self._longest = longest
        self._clock = clock
        self._waited = waited
        self._crowd = crowd
        self._alone = processors() < 2
        #: Occasions to be left out after a vigil in vain, and how many of them are still to come.
        self._pause = 0.0
        self._left_out = 0
        #: Occasions until the next look; what the last one showed, and when it was.
        self._until_look = LOOK_EVERY
        self._crowded = False
        self._seen = (clock(), waited())

    def keep(self, arrived: Callable[[], object]) -> None:
        """Return once `arrived` says so, after a moment in vain, or at once where a vigil would not pay."""
        if self._alone:
            return
        self._until_look -= 1
        if not self._until_look:
            self._look()
        if self._left_out:
            self._left_out -= 1
        elif not self._crowded:
            self._keep(arrived)

    def _look(self) -> None:
        self._until_look = LOOK_EVERY
        before, self._seen = self._seen, (self._clock(), self._waited())
        wait = self._seen[1] - before[1]
        self._crowded = self._crowd() or not wait <= CROWDED * (self._seen[0] - before[0])

    def _keep(self, arrived: Callable[[], object]) -> None:
        """Stay awake. What arrived late, while others had the processor, would have woken this thread as well."""
        clock = self._clock
        end = clock() + self._longest
        while not arrived() and clock() <= end:
            pass
        if clock() <= end:
            self._pause *= _REWARD
        else:
            self._pause = min(MOST_LEFT_OUT, 2 * self._pause + 1)
            self._left_out = int(self._pause)

"""Who may read which object while it is being changed, as far as an observer can be certain; shared by processes.

Times are `time.monotonic`, one clock for all processes of a machine. A change is under way between two of them, and
nobody can say of a read in between whether it should have been let in.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from typing import Final

_SHARED: Final = multiprocessing.get_context("fork")


class Rights:
    """The rights of `users` on `objects`: all granted or taken away through here, by one process."""

    def __init__(self, users: int, objects: int) -> None:
        self._objects = objects
        self._granted = _SHARED.RawArray("d", [math.inf] * (users * objects))
        self._denied = _SHARED.RawArray("d", [math.inf] * (users * objects))

    def set(self, user: int, number: int, make: Callable[[], None], *, allowed: bool) -> None:
        """Change a right: `make` does it, and has returned when it is done."""
        at = user * self._objects + number
        ends, begins = (self._denied, self._granted) if allowed else (self._granted, self._denied)
        ends[at] = math.inf
        make()
        begins[at] = time.monotonic()

    def look(self, user: int, number: int) -> tuple[float, float]:
        """Return since when the user has certainly been let in, and kept out; infinite: not certain."""
        at = user * self._objects + number
        return self._granted[at], self._denied[at]


def judged(
    before: tuple[float, float], after: tuple[float, float], began: float, window: float
) -> bool | None:
    """Say whether a read that `began` then had to be let in, or to be refused (False); None: either is right.

    `before` and `after` are looks before it began and after it ended. Who lost a right may be let in for `window`
    seconds more.
    """
    granted, denied = (one if one == other else math.inf for one, other in zip(before, after, strict=True))
    if granted <= began:
        return True
    return False if denied + window <= began else None

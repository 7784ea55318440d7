"""Why work waits for the origin, told to whoever follows it: from the tasks that the work starts, too.

Work that others have begun already tells those who began it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waiting:
    """What some work waits for."""

    #: In words; empty while the work goes on.
    reason = ""


_followed: ContextVar[Waiting | None] = ContextVar("followed", default=None)


@contextmanager
def followed(waiting: Waiting | None = None) -> Iterator[Waiting]:
    """Follow what is done inside, and the tasks that are started there."""
    waiting = waiting or Waiting()
    before = _followed.set(waiting)
    try:
        yield waiting
    finally:
        _followed.reset(before)


def tell(reason: str) -> None:
    """Say why the work at hand waits; with nothing that it goes on."""
    if (waiting := _followed.get()) is not None:
        waiting.reason = reason

"""Connections kept for reuse: one request at a time on each, none shared across a fork."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Connection = TypeVar("Connection")


class Pool(Generic[Connection]):
    """Idle connections of this process. A deque needs no lock, which a fork could leave locked for ever."""

    def __init__(self, make: Callable[[], Connection], close: Callable[[Connection], None]) -> None:
        self._make = make
        self._close = close
        self._pid = os.getpid()
        self._idle: deque[Connection] = deque()
        #: The parent's, after a fork: kept open and untouched, so that what the parent has pinned stays
        #: pinned.
        self._inherited: list[deque[Connection]] = []

    def take(self) -> tuple[Connection, bool]:
        """Return a connection, and whether it was used before (the daemon may be gone from its other end)."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._inherited.append(self._idle)
            self._idle = deque()
        try:
            return self._idle.pop(), True
        except IndexError:
            pass
        return self._make(), False

    def give(self, connection: Connection) -> None:
        """Give a connection back for reuse."""
        self._idle.append(connection)

    def __len__(self) -> int:
        return len(self._idle)

    def clear(self) -> None:
        """Close the idle connections of this process."""
        while self._pid == os.getpid() and self._idle:
            self._close(self._idle.pop())

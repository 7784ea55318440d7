"""How often libtorrent turns to its own work: seldom, unless something is limited or fetched; at once for connections.

Limits deal out their shares with each turn. Connections are opened once a second, but below zero each turn does what
else is done once a second: meant for tests, so it lasts for some turns only (ADR 22).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

#: Milliseconds between two turns: at rest, while something is limited, and while something is fetched.
USUAL: Final = 500
LIMITED: Final = 100
FETCHING: Final = 25
#: Seconds for which each turn opens connections.
HURRY: Final = 0.03


class Pace:
    """Tells `turn` the milliseconds between two turns whenever they change; belongs to one event loop."""

    def __init__(self, turn: Callable[[int], None]) -> None:
        self._turn = turn
        self._told = self._wanted = USUAL
        self._hurrying: asyncio.TimerHandle | None = None
        #: Until then the turn that is waited for may still be one at rest.
        self._quick_since = 0.0

    def set(self, *, limited: bool, fetching: bool) -> None:
        """Turn as often as this wants it."""
        self._wanted = FETCHING if fetching else LIMITED if limited else USUAL
        self._tell()

    def hurry(self) -> None:
        """Open connections with the next turns."""
        if self._hurrying is None:
            wait = max(0.0, self._quick_since - time.monotonic()) + HURRY
            self._hurrying = asyncio.get_running_loop().call_later(wait, self._calm)
            self._tell()

    def close(self) -> None:
        """Tell nobody any more."""
        if self._hurrying is not None:
            self._hurrying.cancel()

    def _calm(self) -> None:
        self._hurrying = None
        self._tell()

    def _tell(self) -> None:
        tick = self._wanted if self._hurrying is None else -self._wanted
        if tick != self._told:
            if self._told == USUAL:
                self._quick_since = time.monotonic() + USUAL / 1000
            self._told = tick
            self._turn(tick)

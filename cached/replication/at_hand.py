"""What was read last, at hand for a moment: of those who ask for the same bytes at the same time the first has them
read. A small set that goes to many is wanted by all of them within a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: Seconds for which it stays.
STAYS: Final = 1.0


class AtHand:
    """One piece of bytes; belongs to one event loop."""

    def __init__(self) -> None:
        #: Of what it is, and the reading of it.
        self._now: tuple[object, asyncio.Task[bytes]] | None = None
        self._lapsing: asyncio.TimerHandle | None = None

    async def get(self, key: object, read: Callable[[], bytes]) -> bytes:
        """Return what `read`, called in a thread, returns, or returned for this key a moment ago; raises what it does.

        Who is cancelled meanwhile leaves it to the others.
        """
        if self._now is None or self._now[0] != key:
            self._forget()
            reading = asyncio.create_task(asyncio.to_thread(read))
            self._now = (key, reading)
            reading.add_done_callback(self._was_read)
        return await asyncio.shield(self._now[1])

    def _was_read(self, reading: asyncio.Task[bytes]) -> None:
        failed = reading.cancelled() or reading.exception() is not None
        if self._now is None or self._now[1] is not reading:
            return  # something else has been asked for since
        if failed:
            self._forget()
        else:
            self._lapsing = reading.get_loop().call_later(STAYS, self._forget)

    def _forget(self) -> None:
        self._now = None
        if self._lapsing is not None:
            self._lapsing.cancel()
            self._lapsing = None

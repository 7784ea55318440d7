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

    async def get(self, key: object, read: Callable[[], bytes]) -> bytes:
        """Return what `read`, called in a thread, returns, or returned for this key a moment ago; raises what it does.

        Who is cancelled meanwhile leaves it to the others.
        """
        if self._now is None or self._now[0] != key:
            reading = asyncio.create_task(asyncio.to_thread(read))
            self._now = (key, reading)
            reading.add_done_callback(self._was_read)
        return await asyncio.shield(self._now[1])

    def _was_read(self, reading: asyncio.Task[bytes]) -> None:
        if reading.cancelled() or reading.exception() is not None:
            self._forget(reading)
        else:
            reading.get_loop().call_later(STAYS, self._forget, reading)

    def _forget(self, reading: asyncio.Task[bytes]) -> None:
        if self._now is not None and self._now[1] is reading:
            self._now = None

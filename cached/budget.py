"""A budget of bytes per second that all who send (or receive) share, and who goes first.

Takers wait in two lines: those whose bytes a job waits for go before all others, who still get one turn in ten, so
that nothing is given up for silent. What moves past the lines (the swarm, which limits itself) is booked afterwards
with `spend`, so that both together keep within the rate. Belongs to one event loop; times are the loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, TypeVar

#: Bytes per second left to all takers that no job waits for, together, while a job waits.
TRICKLE: Final = 1 << 20
#: Largest and smallest piece that is taken at a time, in bytes.
MOST: Final = 2 << 20
LEAST: Final = 1 << 10
#: Pieces per second that the takers get together, at least: a receiver takes two silent seconds for a stall.
_TURNS: Final = 8
#: Turns of those who go first before one of the others has its own.
_IN_A_ROW: Final = 9
#: Seconds of the rate that may be caught up with: timers are late on a busy machine.
_SLACK: Final = 0.1

Turn = tuple[int, asyncio.Future[None]]
Bytes = TypeVar("Bytes", bytes, memoryview)


class Writer(Protocol):
    """Where a stream's handler puts its bytes."""

    def length(self, total: int) -> None:
        """Say before the first write how many bytes will come in all; optional."""
        ...

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; returns when there is room for more, raises `ConnectionError` when the reader has
        gone.
        """
        ...


class Budget:
    """What one direction of this node's links may take."""

    def __init__(self, rate: int | None = None) -> None:
        """`rate` is in bytes per second; None: no limit."""
        self.rate = rate
        #: Bytes taken so far.
        self.taken = 0
        self._held = False
        self._first: deque[Turn] = deque()
        self._others: deque[Turn] = deque()
        self._in_a_row = 0
        #: When what was taken will have been paid for, and what was taken by those who are held.
        self._free_at = self._released_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Somebody waits for a turn."""
        return bool(self._first or self._others)

    def limit(self, rate: int | None) -> None:
        """Change the rate, at once and for those who wait too."""
        if self.rate and rate and self._free_at:
            now = asyncio.get_running_loop().time()
            self._free_at = now + (self._free_at - now) * self.rate / rate
        elif rate is None:
            self._free_at = 0.0
        self.rate = rate
        if self.waiting:
            self._serve()

    def hold(self, held: bool) -> None:
        """While held, takers that no job waits for get `TRICKLE` together."""
        self._held = held
        if self.waiting:
            self._serve()

    async def pieces(self, data: Bytes, *, first: bool) -> AsyncIterator[Bytes]:
        """Yield what is to be moved, each piece in its turn: small ones, so that no stream falls silent for long."""
        at = 0
        while at < len(data):
            size = await self.some(len(data) - at, first=first)
            yield data[at : at + size]
            at += size

    async def some(self, most: int, *, first: bool) -> int:
        """Wait for a turn, and return how many bytes may be moved in it, at most `most`."""
        size = min(most, self._piece(first=first))
        await self.take(size, first=first)
        return size

    def flows(self, *, first: bool) -> bool:
        """Tell whether nobody has to wait for a turn; may be asked from any thread."""
        return self.rate is None and (first or not self._held) and not self.waiting

    def _piece(self, *, first: bool) -> int:
        rates = [self.rate, None if first or not self._held else TRICKLE]
        rate = min((one for one in rates if one is not None), default=None)
        if rate is None:
            return MOST
        takers = 1 + len(self._first) + len(self._others)
        return max(LEAST, min(MOST, rate // (_TURNS * takers)))

    async def take(self, size: int, *, first: bool = False) -> None:
        """Wait until `size` more bytes keep within the budget; `first`: a job waits for them."""
        self.taken += size
        if self.flows(first=first):
            return
        turn: Turn = (size, asyncio.get_running_loop().create_future())
        line = self._first if first else self._others
        line.append(turn)
        self._serve()
        try:
            await turn[1]
        finally:
            if turn in line:
                line.remove(turn)

    def count(self, size: int) -> None:
        """Count bytes for which nobody had to wait."""
        self.taken += size

    def spend(self, size: int, past: float) -> None:
        """Book bytes that moved past the lines within the last `past` seconds."""
        if self.rate is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now - past) + size / self.rate

    def _serve(self) -> None:
        """Give everybody his turn who may have it now; come back when the next one may."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.waiting:
            now = loop.time()
            line = self._line(now)
            due = self._free_at if line is not None else max(self._free_at, self._released_at)
            if line is None or due > now:
                self._timer = loop.call_at(due, self._serve)
                return
            size, turn = line.popleft()
            if not turn.done():
                self._book(size, now, first=line is self._first)
                turn.set_result(None)

    def _line(self, now: float) -> deque[Turn] | None:
        """Return whose turn it is as soon as the rate allows one; None: of others, when they are let go."""
        able = bool(self._others) and not (self._held and self._released_at > now)
        if self._first and not (able and self._in_a_row >= _IN_A_ROW):
            return self._first
        return self._others if able else None

    def _book(self, size: int, now: float, *, first: bool) -> None:
        self._in_a_row = self._in_a_row + 1 if first else 0
        if self.rate is not None:
            self._free_at = max(self._free_at, now - _SLACK) + size / self.rate
        if self._held and not first:
            self._released_at = max(self._released_at, now) + size / TRICKLE


class PacedWriter:
    """A stream's writer that keeps within a budget."""

    def __init__(self, writer: Writer, budget: Budget, *, first: bool) -> None:
        self._writer = writer
        self._budget = budget
        self._first = first

    def length(self, total: int) -> None:
        """Say how many bytes will come."""
        self._writer.length(total)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes piece by piece, each in its turn."""
        async for piece in self._budget.pieces(memoryview(data), first=self._first):
            await self._writer.write(piece)


def goes_first(query: dict[str, Any]) -> bool:
    """Tell whether a stream was asked for because a job waits for its bytes."""
    return query.get("first") is True

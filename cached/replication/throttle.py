"""How fast the swarm may be: limits that outlive its session, and its share of the budget of a node's links."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cached.replication.session import Session


class Throttle:
    """The limits of one swarm, in bytes per second."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._limits: tuple[int | None, int | None] = (None, None)

    def bind(self, session: Session) -> None:
        """Have a new session keep the limits."""
        self._session = session
        session.limit(*self._limits)

    def limit(self, upload: int | None, download: int | None) -> None:
        """Limit what this node sends and receives through BitTorrent; None: no limit."""
        self._limits = (upload, download)
        if self._session is not None:
            self._session.limit(upload, download)

    def hold(self, held: Collection[str], rate: int) -> None:
        """Let the fetches of these contents receive `rate` each, and all others what they can."""
        if self._session is not None:
            self._session.hold(held, rate)

    async def moved(self) -> tuple[int, int]:
        """Return the payload bytes sent and received; they begin anew with each session. Raises `TimedOut`."""
        return (0, 0) if self._session is None else await self._session.moved()


def share(rate: int | None, others: float, *, waiting: bool) -> int | None:
    """Return what the swarm may take of a link's rate: what the others leave, and no less than half.

    `others` is what streams take just now; when some of them wait for their turn, the swarm gets its half. What it
    does not use of it goes to them: all that it moves is booked in the budget that they wait for.
    """
    if rate is None:
        return None
    half = max(1, rate // 2)
    return half if waiting else max(half, rate - int(others))

"""How fast a transfer is: from what it has received, looked at by anybody at any time. A rule."""

from __future__ import annotations

#: Seconds that a rate is taken over, at least.
SPAN = 1.0


class Speed:
    """Bytes per second of late."""

    def __init__(self) -> None:
        self._older: tuple[float, int] | None = None
        self._newer: tuple[float, int] | None = None

    def look(self, now: float, received: int) -> float:
        """Return the rate over the last `SPAN` to twice as many seconds, if it is looked at so often; 0 at first."""
        if self._older is None or self._newer is None:
            self._older = self._newer = (now, received)
        elif now - self._newer[0] >= SPAN:
            self._older, self._newer = self._newer, (now, received)
        since, before = self._older
        return max(0.0, (received - before) / (now - since)) if now > since else 0.0


def seconds_left(present: int, wanted: int, rate: float) -> float | None:
    """Return when what is missing will be there at this rate; None when it does not move."""
    return round(max(0, wanted - present) / rate, 1) if rate > 0 else None

"""What the fake counts, so that tests assert "one fetch per object" as a number; and its shared speed limit."""

from __future__ import annotations

import threading
import time
from collections import Counter

#: Seconds that a sender who slept too long may make up for, so that the limit is met on a busy machine too.
_CREDIT = 0.05


class Counters:
    """Requests by kind (faulted and refused ones too), bytes of objects sent and received, most at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.active = 0
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.counts: Counter[str] = Counter()
            self.bytes_out = 0
            self.bytes_in = 0
            self.peak = self.active

    def begin(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1
            self.active += 1
            self.peak = max(self.peak, self.active)

    def end(self) -> None:
        with self._lock:
            self.active -= 1

    def add_out(self, amount: int) -> None:
        with self._lock:
            self.bytes_out += amount

    def add_in(self, amount: int) -> None:
        with self._lock:
            self.bytes_in += amount


class Limiter:
    """Limits in bytes per second: `rate` for all connections and both directions, `stream` for each; None: no limit."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.stream: float | None = None
        self._free_at = 0.0
        self._lock = threading.Lock()

    @property
    def piece(self) -> int:
        """How many bytes to move at once: big ones, or with a limit a fiftieth of a second's worth."""
        limits = [limit for limit in (self.rate, self.stream) if limit is not None]
        return max(1024, min(1 << 20, int(min(limits) / 50))) if limits else 4 << 20

    def take(self, amount: int) -> None:
        """Wait for as long as the limit asks before `amount` bytes count as moved."""
        alone = amount / self.stream if self.stream is not None else 0.0
        if self.rate is None:
            time.sleep(alone)
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now - _CREDIT, self._free_at) + amount / self.rate
            wait = self._free_at - now
        time.sleep(max(alone, wait))

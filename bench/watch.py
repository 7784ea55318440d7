"""Looks at the nodes while something runs: how many bytes came and went over their links, and when they had a set."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final, Self

from bench.cluster import Node

#: Seconds between two looks at up to so many nodes; longer at more, for looking takes the processor that they need.
LOOK: Final = 0.03
_FEW: Final = 8


class Watch:
    """A thread that notes every node's counters; use it as a context manager."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.began = time.monotonic()
        #: Seconds since the beginning, and for each node the bytes received and sent by then.
        self.seen: list[tuple[float, list[tuple[int, int]]]] = []
        #: Seconds until each node had published a first content, by its number: then it is whole, and synced.
        self.published: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(LOOK * max(1.0, len(self._nodes) / _FEW)):
            self._note()

    def _note(self) -> None:
        now = time.monotonic() - self.began
        self.seen.append((now, [carried(node.pid) for node in self._nodes]))
        for number, node in enumerate(self._nodes):
            if number not in self.published and next((node.root / "disk" / "contents").iterdir(), None):
                self.published[number] = now

    def received(self, number: int) -> list[tuple[float, int]]:
        """Return how many bytes a node had received since the beginning, and when."""
        first = self.seen[0][1][number][0]
        return [(when, row[number][0] - first) for when, row in self.seen]

    def sent(self, number: int) -> list[tuple[float, int]]:
        """Return how many bytes a node had sent since the beginning, and when."""
        first = self.seen[0][1][number][1]
        return [(when, row[number][1] - first) for when, row in self.seen]

    def span(self, size: int, numbers: list[int]) -> tuple[float, float]:
        """Return when the first hundredth of a set had come to one of these nodes, and when the last had to all."""
        came = [self.received(number) for number in numbers]
        first = min(next((when for when, got in one if got > 0.01 * size), 0.0) for one in came)
        last = max(next(when for when, got in one if got >= one[-1][1] - 0.005 * size) for one in came)
        return first, last


def carried(pid: int) -> tuple[int, int]:
    """Return the bytes that have come and gone over the link of a process's namespace."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    except OSError:  # it has ended
        return 0, 0
    for line in lines:
        device, _, counters = line.partition(":")
        if device.strip() == "eth0":
            fields = counters.split()
            return int(fields[0]), int(fields[8])
    return 0, 0

"""Somebody who asks a daemon all the time, and somebody who looks at its memory, while it does something else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from bench.cluster import Node

#: Seconds between two looks at a daemon's memory.
LOOK: Final = 0.02


class Again:
    """Does something again and again in a thread, with a pause; use it as a context manager."""

    def __init__(self, work: Callable[[], object], pause: float) -> None:
        """`pause` is in seconds."""
        self._work = work
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        #: How long each took, in seconds.
        self.seconds: list[float] = []

    def _go_on(self) -> None:
        while not self._over.wait(self._pause):
            began = time.perf_counter()
            self._work()
            self.seconds.append(time.perf_counter() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def quantile(self, share: float) -> float:
        """Return what so large a share of the answers took at most, in seconds; 0 when there was none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Memory:
    """The most that a daemon has had of memory of its own (RssAnon), by looking often."""

    def __init__(self, node: Node) -> None:
        self._status = Path(f"/proc/{node.pid}/status")
        self._looking = Again(self._look, LOOK)
        #: Bytes.
        self.most = 0

    def _look(self) -> None:
        for line in self._status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                self.most = max(self.most, int(line.split()[1]) * 1024)

    def __enter__(self) -> Self:
        self._looking.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._looking.__exit__()

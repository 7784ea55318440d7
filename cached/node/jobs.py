"""Who waits on this node for bytes that are not here yet: what a job waits for goes before all other work."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from cached.budget import Budget


class Jobs:
    """The waits of local jobs, by set id, or by anything else that tells them apart."""

    def __init__(self, *links: Budget) -> None:
        """`links` are the budgets that are held back for others while a job waits."""
        self._links = links
        self._waiting: Counter[str] = Counter()
        #: Set when a job begins to wait while none did, and when the limits are changed.
        self.stirred = asyncio.Event()

    @property
    def waiting(self) -> bool:
        """Some job waits for bytes."""
        return bool(self._waiting)

    def want(self, what: str) -> bool:
        """Tell whether a job waits for this."""
        return what in self._waiting

    @contextlib.contextmanager
    def wait(self, what: str) -> Iterator[None]:
        """Count a job as waiting while the block runs."""
        if not self._waiting:
            self.stirred.set()
        self._waiting[what] += 1
        self._hold()
        try:
            yield
        finally:
            self._waiting[what] -= 1
            if not self._waiting[what]:
                del self._waiting[what]
            self._hold()

    def _hold(self) -> None:
        for link in self._links:
            link.hold(self.waiting)

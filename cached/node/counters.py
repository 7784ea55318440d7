"""Counts of everything that must not happen in silence, for `cached status` and /metrics."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger("cached")


class Counters:
    """Named counts since the daemon started; names are `event` or `event.reason`, stable for scripts."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, event: str, amount: int = 1) -> None:
        """Count `amount` more of `event`."""
        self._counts[event] += amount

    def note(self, event: str, text: str, **facts: object) -> None:
        """Count one `event` and say it once in the log, with its facts."""
        self._counts[event] += 1
        log.info("%s %s%s", event, text, "".join(f" {key}={value}" for key, value in facts.items()))

    def background_failed(self, key: str, error: BaseException | None) -> None:
        """Count work in the background that ended with an error nobody awaited."""
        self._counts["background_failed"] += 1
        log.error("background_failed task=%s error=%r", key, error, exc_info=error)

    def snapshot(self) -> dict[str, int]:
        """Return all counts, sorted by name."""
        return dict(sorted(self._counts.items()))

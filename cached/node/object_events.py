"""What happens to copies of objects, counted: nothing comes, goes or is turned away in silence.

The counters are `objects.admitted.TIER`, `objects.gone.REASON` and its bytes `objects.gone_bytes.REASON`,
`objects.refused` for objects that no tier took, `objects.refused.full` where the file system had less room than the
tier's cap, and `objects.refused.failed` where it failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from cached.node.counters import Counters
from cached.objects.copies import Event


def observer(counters: Counters) -> Callable[[Event], None]:
    """Return what `cached.objects.tiers.Tiers` is to tell its events."""

    def observe(event: Event) -> None:
        if event.what == "gone":
            counters.add(f"objects.gone.{event.reason}")
            counters.add(f"objects.gone_bytes.{event.reason}", event.bytes)
        elif event.what == "admitted":
            counters.add(f"objects.admitted.{event.tier}")
        else:
            counters.add(f"objects.refused.{event.reason}" if event.reason else "objects.refused")

    return observe


def counted(counts: Mapping[str, int], event: str) -> Iterator[tuple[str, int]]:
    """Yield the last part of the names `EVENT.…` with what was counted."""
    for name, count in counts.items():
        what, _, last = name.rpartition(".")
        if what == event:
            yield last, count

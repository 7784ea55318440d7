"""Refusals remembered, and failures: of other nodes and sets that this node offered, of this node and sets offered to
it.

In memory only: after a restart everybody is asked once more, which costs a call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

#: Seconds for which a refusal is believed when neither ad changes.
LASTS = 900.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """One node's refusal."""

    reason: str
    #: Both ads at the time, as one digest: when either changes, the node is asked again.
    ads: str
    until: float
    #: It had agreed, and its transfer failed; or it could not be asked.
    failed: bool = False


class Rejections:
    """Who refused what, and why."""

    def __init__(self) -> None:
        self._by_set: dict[str, dict[str, Rejection]] = {}
        self._own: dict[str, Rejection] = {}

    def add(
        self,
        set_id: str,
        node_id: str,
        reason: str,
        ads: str,
        *,
        seconds: float = LASTS,
        failed: bool = False,
    ) -> None:
        """Remember that a node refused a set, or failed to get it."""
        found = Rejection(reason, ads, time.monotonic() + seconds, failed)
        self._by_set.setdefault(set_id, {})[node_id] = found

    def stands(self, set_id: str, node_id: str, ads: str) -> bool:
        """Tell whether a refusal still holds: it is fresh, and neither ad has changed."""
        found = self._by_set.get(set_id, {}).get(node_id)
        return found is not None and found.ads == ads and found.until > time.monotonic()

    def lapsed(self) -> set[str]:
        """Forget refusals that are believed no more, and return the sets that they were of."""
        now, sets = time.monotonic(), set()
        for set_id, refusals in list(self._by_set.items()):
            fresh = {node: found for node, found in refusals.items() if found.until > now}
            if len(fresh) < len(refusals):
                sets.add(set_id)
                self._by_set[set_id] = fresh
        return sets

    def of(self, set_id: str) -> dict[str, Rejection]:
        """Return the refusals that are still fresh, by node id."""
        now = time.monotonic()
        return {node: found for node, found in self._by_set.get(set_id, {}).items() if found.until > now}

    def accepted(self, set_id: str, node_id: str) -> None:
        """Forget a refusal: the node has accepted meanwhile."""
        self._by_set.get(set_id, {}).pop(node_id, None)

    def forget(self, set_id: str) -> None:
        """Forget what other nodes refused of a set: its record has changed."""
        self._by_set.pop(set_id, None)

    def drop(self, set_id: str) -> None:
        """Forget everything about a set: it is over."""
        self._by_set.pop(set_id, None)
        self._own.pop(set_id, None)

    def add_own(self, set_id: str, reason: str, *, seconds: float = LASTS, failed: bool = False) -> None:
        """Remember that this node does not want a set for a while, or failed to get it."""
        self._own[set_id] = Rejection(reason, "", time.monotonic() + seconds, failed)

    def own(self, set_id: str) -> Rejection | None:
        """Return why this node does not want a set now; None when it does not mind."""
        found = self._own.get(set_id)
        if found is None or found.until < time.monotonic():
            self._own.pop(set_id, None)
            return None
        return found

    def welcome(self, set_id: str) -> None:
        """Forget that this node did not want a set."""
        self._own.pop(set_id, None)

"""What may go when space is wanted, and in which order: expired and unpinned only, cheapest to lose first."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cached.leases.sharing import Groups

#: Seconds added to idleness, so that what has just been used compares sensibly.
_FRESH = 60.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A content of one tier, with all sets here that share it: its bytes return when all of them go."""

    content: str
    set_ids: tuple[str, ...]
    #: Physical bytes that come back when it goes, whatever else stays.
    bytes: int
    #: Since the last of its leases ended; zero or less while one holds.
    expired_seconds: float
    #: Somebody has it open.
    pinned: bool
    #: Other nodes with a whole copy.
    other_holders: int
    #: Cost of fetching it again, in any unit that all candidates share; the logical bytes will do.
    fetch_cost: float
    #: Since it was last read; infinite if never.
    last_read_seconds: float

    def may_go(self) -> bool:
        """Tell whether no promise and no reader keeps it."""
        return self.expired_seconds > 0.0 and not self.pinned

    def loss(self) -> tuple[bool, float, str]:
        """Return how much is lost with it: the last copy most, then cost per byte and idle second."""
        idle = max(0.0, min(self.expired_seconds, self.last_read_seconds)) + _FRESH
        return (self.other_holders == 0, self.fetch_cost / max(1, self.bytes) / idle, self.content)


def choose(
    candidates: Iterable[Candidate], wanted_bytes: int, shared: Groups | None = None
) -> list[Candidate]:
    """Return what to reclaim for `wanted_bytes`, in order; nothing when even all of it would not be enough.

    Nothing goes without need: leaving any one of the chosen out would be too little. `shared` is what comes back
    besides once all contents of a group have gone.
    """
    if wanted_bytes <= 0:
        return []
    shared = shared or {}
    matters = frozenset().union(*shared)
    may_go = (c for c in candidates if c.may_go() and (c.bytes > 0 or c.content in matters))
    chosen: dict[str, Candidate] = {}
    surplus = -wanted_bytes
    for candidate in sorted(may_go, key=Candidate.loss):
        if surplus >= 0:
            break
        chosen[candidate.content] = candidate
        surplus += _weight(candidate, chosen, shared)
    return _without_needless(chosen, surplus, shared) if surplus >= 0 else []


def _weight(candidate: Candidate, chosen: dict[str, Candidate], shared: Groups) -> int:
    """Return what comes back less when this one of the chosen stays."""
    with_others = (
        size for group, size in shared.items() if candidate.content in group and group <= chosen.keys()
    )
    return candidate.bytes + sum(with_others)


def _without_needless(chosen: dict[str, Candidate], surplus: int, shared: Groups) -> list[Candidate]:
    for candidate in reversed(list(chosen.values())):
        weight = _weight(candidate, chosen, shared)
        if weight <= surplus:
            surplus -= weight
            del chosen[candidate.content]
    return list(chosen.values())

"""Which nodes should get a copy of a set next, and which node sees to it.

Every node computes the same order by hashing (`rendezvous`), so that no coordinator is needed and a node
that comes or goes moves nobody else. The replica count of a set counts copies besides the originator's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from cached.sets.set import ALL, SetRecord

#: States in which a node has a copy or is about to: it is offered nothing, and counts.
_KEPT = frozenset({"COMMITTED", "TRANSFERRING", "REQUESTED"})
#: States in which a node has no copy that anybody relies on.
_WITHOUT = frozenset({"", "EXPIRED", "REJECTED"})


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What placement knows of another node, as regards one set."""

    node_id: str
    host: str = ""
    alive: bool
    #: Whether both sides' requirements hold and the node has not refused; asked only of nodes without a copy.
    matches: bool
    #: State of its replica; empty when it has none.
    state: str = ""
    #: False for a memory-only copy of a set that is to be kept on disk.
    durable: bool = True
    originator: bool = False
    #: Free space in the set's tier as last heard; `None` when unknown.
    free_bytes: int | None = None


def rendezvous(set_id: str, node_ids: Iterable[str]) -> list[str]:
    """Return the nodes in the order in which they are responsible for a set, the same on every node."""
    return sorted(
        set(node_ids), key=lambda node_id: (sha256(f"{set_id}/{node_id}".encode()).digest(), node_id)
    )


def driver(set_id: str, originator: str, holders: Iterable[str]) -> str:
    """Return which of the live `holders` offers the set to others; empty when nobody holds it.

    It is the originator, else the first in rendezvous order.
    """
    present = set(holders)
    if originator in present:
        return originator
    return next(iter(rendezvous(set_id, present)), "")


def givers(asking: str, originator: str, holders: Iterable[str]) -> list[str]:
    """Return the `holders` in the order in which a node should ask them: each node another, the originator last."""
    return sorted(rendezvous(asking, holders), key=lambda node_id: node_id == originator)


def missing(record: SetRecord, candidates: Iterable[Candidate]) -> int | None:
    """Return how many more copies the set should get; `None` for as many as there are nodes that match.

    Copies on dead nodes do not count, nor expired ones, nor memory-only ones of a set to be kept on disk;
    copies on their way do.
    """
    if record.status != "live":
        return 0
    if record.replicas == ALL:
        return None
    return max(0, record.replicas - count(record, candidates))


def count(record: SetRecord, candidates: Iterable[Candidate]) -> int:
    """Return how many of these have a copy that counts; see `missing`."""
    return sum(_counts(record, one) for one in candidates)


def _counts(record: SetRecord, candidate: Candidate) -> bool:
    lasting = candidate.durable or record.tier == "memory"
    return candidate.alive and not candidate.originator and candidate.state in _KEPT and lasting


def choose(record: SetRecord, candidates: Sequence[Candidate]) -> list[str]:
    """Return the ids of the nodes to offer the set to now.

    Of the live nodes that match, have room and hold no copy: all of them, or as many as are missing, in
    rendezvous order but first those on hosts with the fewest copies.
    """
    wanted = missing(record, candidates)
    free = {one.node_id: one for one in candidates if _available(record, one)}
    ordered = [free[node_id] for node_id in rendezvous(record.id, free)]
    if wanted is None:
        return [one.node_id for one in ordered]
    taken = Counter(one.host or one.node_id for one in candidates if _holds(one))
    chosen: list[str] = []
    while ordered and len(chosen) < wanted:
        best = min(ordered, key=lambda one: taken[one.host or one.node_id])
        ordered.remove(best)
        taken[best.host or best.node_id] += 1
        chosen.append(best.node_id)
    return chosen


def _available(record: SetRecord, candidate: Candidate) -> bool:
    roomy = candidate.free_bytes is None or candidate.free_bytes >= record.bytes
    wants = candidate.matches and candidate.state in _WITHOUT and not candidate.originator
    return candidate.alive and wants and roomy


def _holds(candidate: Candidate) -> bool:
    return candidate.alive and candidate.state in _KEPT

"""Which node a job should run on, judged by the data: what `cached locate` answers, best first.

Bytes already there come first; among equals a node that may still get the rest, then the longer lease, then
free space. The node's name decides last, so that the order is total and the same wherever it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

#: Assumed where nothing was measured: a gigabit link at TCP goodput.
BANDWIDTH: Final = 117_000_000.0
#: Seconds from a request to the first byte: match, offer, reservation.
START: Final = 0.05


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One live node, as regards all the sets asked for together; sizes in bytes."""

    node: str
    host: str = ""
    #: State of the replicas in one word; empty when it has none.
    state: str = ""
    bytes_present: int
    bytes_wanted: int
    #: Shortest grant left; `None` when the node does not hold every set.
    lease_seconds_left: float | None = None
    free_bytes: int = 0
    #: Whether the node matches, and so may be asked to fetch what it lacks.
    matches: bool
    #: Whether what it lacks can be had from anywhere.
    obtainable: bool = True
    bandwidth_bytes_per_second: float = BANDWIDTH


class Ranked(msgspec.Struct, frozen=True):
    """A candidate and how long it would take until it has everything; `None` when it cannot have it."""

    candidate: Candidate
    estimate_seconds: float | None


def rank(candidates: Iterable[Candidate]) -> list[Ranked]:
    """Return the candidates, best first, each with the time that it needs."""
    return [Ranked(one, estimate_seconds(one)) for one in sorted(candidates, key=_order)]


def _order(one: Candidate) -> tuple[int, bool, float, int, str, str]:
    lease = one.lease_seconds_left or 0.0
    return (-_present(one), not one.matches, -lease, -one.free_bytes, one.node, one.host)


def _present(one: Candidate) -> int:
    return max(0, min(one.bytes_present, one.bytes_wanted))


def estimate_seconds(one: Candidate) -> float | None:
    """Return the seconds until the node has all bytes; `None` without a match or room, or when nobody has them."""
    lacking = one.bytes_wanted - _present(one)
    if not lacking and one.state:
        return 0.0
    if not (one.matches and one.obtainable) or lacking > one.free_bytes:
        return None
    return START + lacking / max(one.bandwidth_bytes_per_second, 1.0)

"""Whom to dial, so that the mesh stays whole and no pair of nodes dials each other at the same moment.

A rule, free of I/O. Complete holders wait to be dialled; of two fetchers the one with the lower id dials; a
node that nobody can reach dials everybody. Who stays missing for a while is dialled whatever the order says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from cached.replication.transfer import Holder

#: Up to this many fetchers everybody knows everybody.
FULL_MESH = 16
#: Seconds after which a missing member is dialled out of turn.
OUT_OF_TURN = 3.0


def neighbours(node_id: str, holders: Iterable[Holder]) -> list[Holder]:
    """Choose whom `node_id` keeps connections with: of those that have all of it some, each node others; else all.

    Who fetches, too, has been chosen before (`fellows`).
    """
    others = {holder.node_id: holder for holder in holders if holder.node_id != node_id}
    complete = spread(node_id, (key for key, holder in others.items() if holder.complete))[:FULL_MESH]
    return [others[key] for key in (*complete, *sorted(key for key in others if not others[key].complete))]


def spread(node_id: str, others: Iterable[str]) -> list[str]:
    """Return the others in an order in which each node has other ones first."""
    return sorted(others, key=lambda other: hashlib.sha256(f"{node_id} {other}".encode()).digest())


def fellows(node_id: str, fetchers: Iterable[str]) -> set[str]:
    """Choose of those that fetch, too, whom `node_id` keeps connections with: all, or of many a ring and some others.

    All nodes choose by the same ring of ids and the same distances, so that choices are mutual.
    """
    ring = sorted({*fetchers, node_id})
    return _around(ring, ring.index(node_id))


def all_fellows(fetchers: Iterable[str]) -> dict[str, set[str]]:
    """Return the `fellows` of each of those that fetch the same."""
    ring = sorted(set(fetchers))
    return {node_id: _around(ring, at) for at, node_id in enumerate(ring)}


def _around(ring: Sequence[str], at: int) -> set[str]:
    if len(ring) <= FULL_MESH:
        return set(ring) - {ring[at]}
    size = len(ring)
    steps = {1, 2, *(max(3, round(size * share)) for share in (0.13, 0.29, 0.43))}
    return {ring[(at + way * step) % size] for step in steps for way in (1, -1)} - {ring[at]}


def introduces(node_id: str, other: str) -> bool:
    """Tell whether of two that fetch the same `node_id` introduces both, as each does with half of its fellows."""
    first, second = sorted((node_id, other))
    return (hashlib.sha256(f"{first} {second}".encode()).digest()[0] % 2 == 0) == (node_id == first)


def to_dial(
    node_id: str,
    members: Iterable[Holder],
    *,
    reachable: bool,
    connected: Collection[str],
    missing_since: Mapping[str, float],
    now: float,
) -> list[Holder]:
    """Return the members that this fetcher must dial now: not connected, and its turn to dial."""
    return [
        member
        for member in members
        if member.node_id not in connected
        and member.host
        and member.bittorrent_port
        and member.reachable
        and (
            member.complete
            or not reachable
            or node_id < member.node_id
            or now - missing_since.get(member.node_id, now) >= OUT_OF_TURN
        )
    ]


def peer_id(node_id: str) -> str:
    """Return the 20 characters by which this node shows itself inside BitTorrent."""
    return "-CA0100-" + hashlib.sha256(node_id.encode()).hexdigest()[:12]

"""Status: this node and its cluster in figures and in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cached import wire
from cached.node import damage, limits, object_status, views
from cached.node.access import may_manage, may_see
from cached.node.caller import Caller
from cached.node.node import Node, Trouble
from cached.node.traffic import traffic


async def nodes(node: Node, _caller: Caller) -> list[wire.NodeView]:
    """Return all nodes that this node knows, itself first."""
    return [views.node_view(entry) for entry in node.directory.nodes()]


async def status(node: Node, caller: Caller) -> dict[str, Any]:
    """Return the state of this node: who it is, what it holds, what it does and what goes wrong."""
    entries = node.directory.nodes()
    states = Counter(row.state for row in node.shelf.replicas.values())
    return {
        "name": node.directory.name,
        "id": node.id,
        "cluster": node.identity.cluster_id,
        "host": node.host,
        "address": node.directory.address,
        "bittorrent_port": node.bittorrent_port,
        "reachable": node.directory.reachable,
        "state": "draining" if node.draining else "running",
        "health": _health(node, caller),
        "uptime_seconds": round(node.now().boottime - node.started.boottime, 3),
        "directory_age_seconds": round(node.directory.age_seconds(), 3),
        "nodes": {"known": len(entries), "alive": sum(entry.alive for entry in entries)},
        "sets": {"known": len(node.shelf.known), "replicas": dict(states)},
        "tiers": {tier: _tier(node, tier) for tier in node.stores},
        "open": node.pins.count(),
        "transfers": [
            {
                "set": flight.set_id,
                "name": node.shelf.known[flight.set_id].record.name,
                "method": flight.method,
                "state": flight.progress.state,
                "bytes_present": flight.progress.bytes_present,
                "bytes_wanted": flight.progress.bytes_wanted,
                "reason": flight.progress.reason,
                "bytes_per_second": flight.rate() or None,
                "by_source": dict(flight.progress.by_source),
            }
            for flight in node.transfers.values()
            if may_manage(caller, node.shelf.known[flight.set_id].record)
        ],
        "limits": limits.view(node),
        "objects": object_status.objects(node),
        "traffic": await traffic(node, caller),
        "counters": node.counts(),
    }


def _tier(node: Node, tier: Any) -> dict[str, int]:
    contents = [row for row in node.shelf.contents.values() if row.tier == tier]
    return {
        "capacity_bytes": node.space.capacity(tier),
        "free_bytes": node.space.free(tier),
        "committed_bytes": sum(row.physical for row in contents if row.state == "STABLE"),
        "reserved_bytes": node.space.reserved(tier),
        "going_bytes": sum(row.physical for row in contents if row.state == "GOING"),
    }


def _health(node: Node, caller: Caller) -> list[str]:
    """Return in words what an operator should look at; empty when all is well."""
    words = [_in_words(node, caller, trouble) for trouble in [*node.troubles, *damage.troubles(node)]]
    if not node.catalog.clock_trusted:
        words.append("after the last boot the wall clock was not believed: leases are held until it can be")
    if not node.directory.reachable:
        words.append("no peer could dial this node: it takes part through polls")
    if node.space.free("disk") == 0:
        words.append("the disk tier is full: nothing new is accepted until leases end or sets are deleted")
    words += object_status.troubles(node)
    return words


def _in_words(node: Node, caller: Caller, trouble: Trouble) -> str:
    """Return what is wrong; the names of sets only as far as the caller may know them."""
    if not trouble.sets:
        return trouble.words
    sets = [node.shelf.known[set_id].record for set_id in trouble.sets if set_id in node.shelf.known]
    names = [record.name for record in sets if may_see(caller, record)]
    return f"{', '.join(names) or 'a set'}: {trouble.words}"

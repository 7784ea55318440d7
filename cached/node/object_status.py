"""The object cache in figures and in words, for `cached status`."""

from __future__ import annotations

from typing import Any

from cached.node import views
from cached.node.node import Node
from cached.node.object_events import counted
from cached.objects.account import HITS, PLACES, Counted, Figures, advice
from cached.objects.admission import Tier
from cached.units import format_size


def objects(node: Node) -> dict[str, Any]:
    """Return the state of the object cache; nothing in it tells of single users or objects."""
    cache, counts = node.objects, node.counters.snapshot()
    cache.hits.settle()
    account, known, asked = cache.account, figures(node), cache.origin.stats.snapshot()
    return {
        "advice": advice(known, room(node, "memory"), room(node, "disk")),
        "byte_hit_rate": known.byte_hit_rate,
        "hit_rate": _share(account.hits.reads, account.misses.reads),
        "working_set_bytes": known.working_set,
        "working_set_fits": known.fits,
        "working_set_fits_memory": known.fits_memory,
        "copies": len(cache.tiers.index),
        "open": len(cache.pins),
        "tiers": {
            tier: {
                "capacity_bytes": room.cap,
                "used_bytes": room.used,
                "reserved_bytes": room.reserved,
                "free_bytes": room.free,
            }
            for tier, room in cache.tiers.index.rooms.items()
        },
        "hits": {place: _served(account.places[place]) for place in PLACES if place in HITS},
        "misses": _served(account.misses),
        "read_through": counts.get("objects.read_through", 0),
        "refused": counts.get("objects.refused", 0),
        "gone": dict(counted(counts, "objects.gone")),
        "redis": redis(node),
        "members": members(node),
        "origin": {
            "requests": dict(counted(asked, "origin.requests")),
            "retries": dict(counted(asked, "origin.retries")),
            "bytes_in": asked["origin.bytes_in"],
            "bytes_out": asked["origin.bytes_out"],
        },
    }


def figures(node: Node) -> Figures:
    """Return the figures to scale on."""
    cache = node.objects
    cache.hits.settle()
    return cache.account.figures(room(node, "memory"), room(node, "disk"), cache.now())


def room(node: Node, tier: Tier) -> int:
    """Return the bytes of objects that a tier may hold, 0 where there is none."""
    found = node.objects.tiers.index.rooms.get(tier)
    return 0 if found is None else found.cap


def redis(node: Node) -> dict[str, Any]:
    """Return how the tier that nodes share is: `none` where no Redis is configured."""
    shared = node.objects.shared
    return {
        "state": "none" if shared is None else shared.state,
        "troubles": [] if shared is None else shared.troubles,
    }


def members(node: Node) -> list[dict[str, Any]]:
    """Return the nodes that told what was not true, or cut objects into parts of another size than this one."""
    false, differing = node.objects.credit.false, node.objects.homes.differing
    names = views.node_names(node, {*false, *differing})
    return [
        {"node": names[who], "news_false": false[who], "block_bytes": differing.get(who)}
        for who in sorted(names)
    ]


def troubles(node: Node) -> list[str]:
    """Return what an operator should look at, in words."""
    block = node.objects.block
    differing = [
        f"{one['node']} shares large objects in blocks of {format_size(one['block_bytes'])}, this node in blocks of "
        f"{format_size(block)}, so each reads them from Cloud Storage: give all nodes the same [objects] block"
        for one in members(node)
        if one["block_bytes"] is not None
    ]
    away = node.objects.origin.stats.trouble
    return [*([away] if away else []), *redis(node)["troubles"], *differing]


def _served(what: Counted) -> dict[str, int]:
    return {"reads": what.reads, "bytes": what.bytes}


def _share(part: int, other: int) -> float | None:
    return part / (part + other) if part + other else None

"""Traffic: how many payload bytes each set has cost this node, in and out, by either method, since it started."""

from __future__ import annotations

import asyncio
from typing import Any

from cached.errors import CachedError
from cached.node.access import may_manage
from cached.node.caller import Caller
from cached.node.node import Node
from cached.replication.transfer import Traffic


async def traffic(node: Node, caller: Caller) -> list[dict[str, Any]]:
    """Return one line for each set here that has moved bytes and that the caller manages.

    Sets that share a content share its bytes, and so its figures.
    """
    sets = [
        node.shelf.known[set_id].record
        for set_id in node.shelf.replicas
        if may_manage(caller, node.shelf.known[set_id].record)
    ]
    contents = sorted({record.content for record in sets})
    moved = dict(
        zip(contents, await asyncio.gather(*(of_content(node, each) for each in contents)), strict=True)
    )
    return [
        {
            "set": record.id,
            "name": record.name,
            "content": record.content,
            "bytes_sent": moved[record.content].uploaded,
            "bytes_received": moved[record.content].downloaded,
            "bytes_redundant": moved[record.content].redundant,
        }
        for record in sets
        if moved[record.content] != Traffic()
    ]


async def of_content(node: Node, content: str) -> Traffic:
    """Return what one content has moved by both methods; what a busy session does not tell in time is left out."""
    direct = Traffic(
        uploaded=node.direct_server.sent.get(content, 0), downloaded=node.direct.received.get(content, 0)
    )
    try:
        return direct + await node.swarm.stats(content)
    except CachedError:
        node.counters.add("traffic.unknown")
        return direct

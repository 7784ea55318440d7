"""Traffic: how many payload bytes each set has cost this node, in and out, by either method, since it started."""

from __future__ import annotations

import asyncio
from typing import Any

from cached.errors import CachedError
from cached.node.access import may_manage
from cached.node.caller import Caller
from cached.node.node import Node
from cached.replication.transfer import Traffic
from cached.sets.set import SetRecord


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
    return [line for record in sets if (line := _line(record, moved[record.content]))]


def _line(record: SetRecord, moved: dict[str, Traffic]) -> dict[str, Any] | None:
    both = sum(moved.values(), Traffic())
    if both == Traffic():
        return None
    return {
        "set": record.id,
        "name": record.name,
        "content": record.content,
        "bytes_sent": both.uploaded,
        "bytes_received": both.downloaded,
        "bytes_redundant": both.redundant,
        "methods": {
            method: {"bytes_sent": one.uploaded, "bytes_received": one.downloaded}
            for method, one in moved.items()
            if one != Traffic()
        },
    }


async def of_content(node: Node, content: str) -> dict[str, Traffic]:
    """Return what one content has moved, by method; what a busy session does not tell in time is left out."""
    direct = Traffic(
        uploaded=node.direct_server.sent.get(content, 0), downloaded=node.direct.received.get(content, 0)
    )
    try:
        return {"direct": direct, "bittorrent": await node.swarm.stats(content)}
    except CachedError:
        node.counters.add("traffic.unknown")
        return {"direct": direct}

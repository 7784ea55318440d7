"""What a node does by itself, without being asked."""

from __future__ import annotations

import asyncio

from cached.node import drive, ledger, limits, memory, object_index, recover, seeding, sweep
from cached.node.node import Node
from cached.node.scrubber import Scrubber
from cached.objects import sweep as objects_sweep


def start(node: Node, scrubber: Scrubber, findings: recover.Findings) -> list[asyncio.Task[None]]:
    """Start the loops, which run until they are cancelled, and return them; and what remains of the recovery."""
    loops = {
        "drive": drive.run(node),
        "sweep": sweep.run(node),
        "scrubber": scrubber.run(),
        "ledger": ledger.run(node),
        "limits": limits.run(node),
        "object index": object_index.run(node),
        "object sweep": objects_sweep.run(node.objects, node.config.policy.default_lease),
    }
    node.fly("recover", lambda: recover.afterwards(node, findings))
    node.fly("restore memory", lambda: memory.restore(node))
    return [asyncio.create_task(work, name=name) for name, work in loops.items()]


def neighbours_changed(node: Node, node_ids: frozenset[str]) -> None:
    """React to nodes that came, went or changed."""
    alive = {entry.record.id for entry in node.directory.nodes() if entry.alive}
    for gone in node_ids - alive:
        node.objects.homes.gone(gone)
    node.stirred.moved(node_ids)
    if alive - {node.id} and node.matchmaker.pid is None:
        node.fly("get ready", lambda: get_ready(node))
    if not node.swarm.encrypted:
        node.fly("encrypt", lambda: seeding.encrypt_with(node))


async def get_ready(node: Node) -> None:
    """Start what the first offer needs before it comes: half a second, where processors are busy."""
    await asyncio.gather(node.matchmaker.start(), node.swarm.get_ready())

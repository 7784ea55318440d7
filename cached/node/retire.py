"""Retire: how a replica leaves this node. Each step may be repeated, so a crash anywhere only delays it.

replica GOING (durable: new readers are refused) -> last reader gone -> content renamed to the trash -> unlinked ->
rows gone, space returned. The content itself goes only when no other set on this node needs it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow
from cached.catalog.tx import Tx
from cached.errors import Busy, CachedError
from cached.leases.deadline import Deadline
from cached.node import announce, persist, receive, sharing
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.sets.set import Tier

RETIRE_GOING = faults.declare("retire.going")
RETIRE_TRASHED = faults.declare("retire.trashed")
RETIRE_EMPTIED = faults.declare("retire.emptied")
RETIRE_FORGOTTEN = faults.declare("retire.forgotten")


async def give_up(node: Node, set_id: str, *, expired: Deadline | None = None) -> int:
    """Let a replica go; return the logical bytes that will be given back. Nothing happens when there is none.

    With `expired`, only while its grant is still that one: `Busy` when it has been extended at this very moment.
    """
    row = node.shelf.replicas.get(set_id)
    if row is not None and row.state == "TRANSFERRING":
        await receive.cancel(node, set_id)
        row = node.shelf.replicas.get(set_id)
    if row is None:
        return 0

    def going(stored: ReplicaRow) -> ReplicaRow:
        if expired is not None and stored.grant != expired:
            raise Busy("its lease has just been extended")
        return msgspec.structs.replace(stored, state="GOING")

    if row.state != "GOING":
        await node.shelf.keep(Changes(edits=((set_id, going),)))
        faults.point(RETIRE_GOING)
        announce.publish(node)
    if set_id in node.uploads:
        node.fly(f"stop persist {set_id}", lambda: persist.stop(node, set_id))
    reap_soon(node, row.content)
    return row.bytes


def reap_soon(node: Node, content: str) -> None:
    """Take away in the background what can go of a content; a node that stops leaves it to its next start."""
    if not node.draining and _going(node, content):
        node.fly(f"reap {content}", lambda: reap(node, content))


async def reap(node: Node, content: str) -> None:
    """Take away what can go of a content now: replicas that are GOING, and the bytes that no set needs and nobody
    reads.
    """
    async with node.locks(f"content {content}"):
        going = _going(node, content)
        if not going:
            return
        unneeded = [
            tier
            for tier in node.stores
            if (content, tier) in node.shelf.contents and not needed(node, content, tier)
        ]
        if unneeded and (node.pins.pinned(content) or content in node.lent):
            return
        for tier in unneeded:
            if not await _take_away(node, content, tier):
                return
        await _forget(node, content, going, unneeded)
    announce.publish(node)


def _going(node: Node, content: str) -> list[ReplicaRow]:
    rows = [node.shelf.replicas[set_id] for set_id in node.shelf.sets_of_content(content)]
    return [row for row in rows if row.state == "GOING"]


def needed(node: Node, content: str, tier: Tier) -> bool:
    """Tell whether a set on this node that is not going wants the content in that tier."""
    for set_id in node.shelf.sets_of_content(content):
        row, known = node.shelf.replicas[set_id], node.shelf.known[set_id]
        if row.state != "GOING" and (
            row.tier == tier or (tier == "memory" and known.record.tier == "memory")
        ):
            return True
    return False


async def _take_away(node: Node, content: str, tier: Tier) -> bool:
    """Delete a content of a tier; False when files have just been linked from it: then later."""
    store = node.stores[tier]

    def going(tx: Tx) -> list[ContentRow]:
        row = tx.content(content, tier)
        return [msgspec.structs.replace(row, state="GOING")] if row is not None else []

    await node.shelf.keep(Changes(content_edits=(going,)))
    if content in node.lent:
        return False
    node.consents.withdraw(content)
    await node.swarm.unseed(content)
    node.roots.drop(store, content)
    async with sharing.changing(node, tier):
        await sharing.leave(node, store, content)
        trashed: Path | None = await asyncio.to_thread(store.retire, content)
    node.file_index.forget(store, content)
    faults.point(RETIRE_TRASHED)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)
    faults.point(RETIRE_EMPTIED)
    return True


async def _forget(node: Node, content: str, going: list[ReplicaRow], tiers: list[Tier]) -> None:
    kept = [
        node.stores[tier]
        for tier in node.stores
        if (content, tier) in node.shelf.contents and tier not in tiers
    ]
    for store in kept:
        for row in going:
            await asyncio.to_thread(store.drop_record, content, row.set_id)
    await node.shelf.keep(
        Changes(
            drop_replicas=tuple(row.set_id for row in going),
            drop_contents=tuple((content, tier) for tier in tiers),
        )
    )
    faults.point(RETIRE_FORGOTTEN)
    node.counters.add("replicas_gone", len(going))


def refresh_record(node: Node, known: Known) -> None:
    """Keep the newest record beside the bytes, so that losing the database loses no metadata; in the background."""
    record = known.record
    row = node.shelf.replicas.get(record.id)
    if row is None or row.state != "COMMITTED":
        return
    store = node.stores[row.tier]

    async def put() -> None:
        async with node.locks(f"content {record.content}"):
            if store.has(record.content):
                newest = node.shelf.known[record.id]
                try:
                    await asyncio.to_thread(store.put_record, record.content, newest.aged(node.now()))
                except (
                    CachedError
                ) as error:  # a full disk: the database has the record, and so have the peers
                    node.counters.note("record.not_stored", error.message, set=record.id[:8])

    node.fly(f"record {record.id} {record.revision}", put)


async def empty_trash(node: Node) -> None:
    """Delete what an error has left on its way out, so that its space returns without a restart."""
    for store in node.stores.values():
        for trashed in await asyncio.to_thread(store.list_trash):
            await asyncio.to_thread(store.empty, trashed)

"""The memory tier: a copy on tmpfs that serves readers faster. It is counted, never sparse, and gone after a boot
without harm.
"""

from __future__ import annotations

import asyncio

from cached import faults
from cached.catalog.rows import ContentRow, ReservationRow
from cached.critical import to_the_end
from cached.errors import Busy, CachedError
from cached.leases import capacity
from cached.node import retire, sharing, verify
from cached.node.node import Node
from cached.node.shelf import Changes
from cached.storage.copying import copy_content
from cached.storage.links import NOTHING

MEMORY_COPIED = faults.declare("memory.copied")


async def reserve(
    node: Node, txid: str, owner: str, total_bytes: int, total_files: int, *, fairly: bool = False
) -> None:
    """Set memory aside for a content that is still to come, as `Space.reserve` does.

    Raises `NoSpace`: memory never falls back to disk in silence.
    """
    await node.space.reserve(
        ReservationRow(
            txid=_id(txid),
            purpose="memory",
            tier="memory",
            bytes=capacity.estimate(total_bytes, total_files),
            owner=owner,
        ),
        fairly=fairly,
    )


async def release(node: Node, txid: str) -> None:
    """Give back what `reserve` took, unless `fill` has used it."""
    await node.space.release(_id(txid))


async def fill(node: Node, txid: str, content: str) -> None:
    """Copy a content of the disk tier into the memory reserved for it, verified on the way, and let readers use it.

    Raises `NoSpace` or `IntegrityFailed`, and `Busy` when the content goes meanwhile; then memory is as it was.
    """
    disk, memory = node.stores["disk"], node.stores["memory"]

    def go_on(_: int) -> None:
        if node.draining:
            raise Busy("the node is stopping")

    try:
        await to_the_end(asyncio.to_thread(copy_content, disk, content, memory, _id(txid), go_on))
        faults.point(MEMORY_COPIED)
        await to_the_end(_publish(node, txid, content))
    finally:
        await to_the_end(_clean_up(node, txid))


async def _publish(node: Node, txid: str, content: str) -> None:
    async with node.locks(f"content {content}"):
        on_disk = node.shelf.contents.get((content, "disk"))
        if on_disk is None or on_disk.state != "STABLE":
            raise Busy("the set has gone while it was copied to memory")
        await verify.heal_from_staged(node, node.stores["memory"], content, _id(txid))
        await asyncio.to_thread(node.stores["memory"].publish, _id(txid), content)
        manifest = await asyncio.to_thread(node.stores["disk"].manifest, content)
        physical = await asyncio.to_thread(capacity.physical, manifest)
        row = ContentRow(
            content=content, tier="memory", bytes=on_disk.bytes, physical=physical, state="STABLE"
        )
        landing = sharing.landing(row, NOTHING)
        await node.shelf.keep(
            Changes(content_edits=(landing,), also=lambda tx: tx.delete_reservation(_id(txid)))
        )
    node.space.settle(_id(txid))


async def _clean_up(node: Node, txid: str) -> None:
    store = node.stores["memory"]
    trashed = await asyncio.to_thread(store.discard, _id(txid))
    await node.space.release(_id(txid))
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)


async def ensure(node: Node, content: str, owner: str) -> None:
    """Bring a content of the disk tier into memory when it is not there. Raises `NoSpace`."""
    if (content, "memory") in node.shelf.contents:
        return
    async with node.locks(f"memory {content}"):
        on_disk = node.shelf.contents.get((content, "disk"))
        if on_disk is None or (content, "memory") in node.shelf.contents:
            return
        txid = node.new_id()
        await reserve(node, txid, owner, on_disk.bytes, on_disk.physical // 4096)
        await fill(node, txid, content)


async def restore(node: Node) -> None:
    """After a boot: make the memory copies anew that the sets held here ask for."""
    for row in list(node.shelf.replicas.values()):
        known = node.shelf.known.get(row.set_id)
        if known is None or known.record.tier != "memory" or row.tier != "disk" or row.state != "COMMITTED":
            continue
        if node.left(row.grant) <= 0 or "memory" not in node.stores:
            continue
        try:
            await ensure(node, row.content, row.owner)
        except CachedError as error:
            node.counters.note("memory.not_restored", known.record.name, reason=error.message)


async def evict(node: Node, content: str) -> bool:
    """Give up the memory copy of a content and tell whether it is gone: not while somebody reads.

    The disk copy stays.
    """
    async with node.locks(f"content {content}"):
        row, disk = (node.shelf.contents.get((content, tier)) for tier in ("memory", "disk"))
        if row is None or disk is None or disk.state != "STABLE" or node.pins.pinned(content):
            return row is None
        await to_the_end(_evict(node, content))
    return True


async def _evict(node: Node, content: str) -> None:
    store = node.stores["memory"]
    await sharing.leave(node, store, content)
    await node.shelf.keep(Changes(drop_contents=((content, "memory"),)))
    node.roots.drop(store, content)
    await node.swarm.unseed(content)
    trashed = await asyncio.to_thread(store.retire, content)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)


async def tidy(node: Node) -> None:
    """Give up the memory copies that no set held here asks for any more."""
    for content, tier in list(node.shelf.contents):
        if tier == "memory" and not retire.needed(node, content, "memory"):
            await evict(node, content)


def _id(txid: str) -> str:
    return f"{txid}.memory"

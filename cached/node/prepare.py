"""Prepare: what a transfer has before its first byte: links to what is here already, space for the rest, a tree."""

from __future__ import annotations

import asyncio
from functools import partial

from cached import faults
from cached.critical import to_the_end
from cached.errors import IntegrityFailed
from cached.leases import capacity
from cached.node import beside, damage, kept, sharing, verify
from cached.node.flight import Flight
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.replication import layout
from cached.replication.serving import FEW
from cached.sets import manifest as manifests
from cached.sets.coarse import Coarse
from cached.sets.manifest import Manifest
from cached.storage import links
from cached.storage.disk import Store
from cached.storage.leafmaker import LeafMaker
from cached.storage.staging import Staging

RECEIVE_PREPARED = faults.declare("receive.prepared")


async def let_go(node: Node, flight: Flight) -> None:
    """Let go the contents that were linked from; a staging area that is left over keeps no link to them."""
    if flight.linked.donors:
        for store in node.stores.values():
            await asyncio.to_thread(links.unlink_all, store.root / "incoming" / flight.txid)
        flight.linked = links.NOTHING
    sharing.release(node, flight.txid)


async def fit(node: Node, flight: Flight, metadata: Metadata) -> None:
    """Check the promise against the real manifest, and set aside what is needed for what is not here already.

    A record that understated its size is refused.
    """
    row, record = node.shelf.replicas[flight.set_id], node.shelf.known[flight.set_id].record
    manifest = metadata.manifest
    if (manifest.total_bytes, manifest.file_count) != (record.bytes, record.files):
        raise IntegrityFailed(f"the record of {record.name} does not describe its content")
    store = node.stores[row.tier]
    if len(manifest.entries) <= FEW and not sharing.may_link(node, store, row.owner, flight.content):
        await node.space.grow(flight.txid, _needed(manifest))
        await to_the_end(asyncio.to_thread(_prepare, node, store, flight, metadata))
    else:
        await _link_and_prepare(node, store, flight, metadata)
    flight.manifest = manifest
    faults.point(RECEIVE_PREPARED)


async def whole(node: Node, flight: Flight, metadata: Metadata) -> Metadata:
    """Return the metadata with all leaves: whoever reads from the origin needs them, and they have not come yet.

    Raises what `kept.obtain` raises.
    """
    if not isinstance(metadata.digests, Coarse):
        return metadata
    found = await kept.obtain(node, node.shelf.known[flight.set_id], flight.progress)
    await _seal_again(node, flight, found)
    return found


async def _seal_again(node: Node, flight: Flight, metadata: Metadata) -> None:
    store = node.stores[node.shelf.replicas[flight.set_id].tier]

    def seal() -> None:
        with store.stage(flight.txid) as staging:
            _seal(flight, staging, metadata)

    await to_the_end(asyncio.to_thread(seal))


def _seal(flight: Flight, staging: Staging, metadata: Metadata) -> None:
    data = manifests.encode(metadata.manifest)
    staging.seal(data, metadata.digests, metadata.mtimes)
    if flight.maker is not None:
        flight.maker.close()
        flight.maker = None
    if isinstance(metadata.digests, Coarse):
        flight.maker = LeafMaker(staging, metadata.manifest, metadata.digests)


async def _link_and_prepare(node: Node, store: Store, flight: Flight, metadata: Metadata) -> None:
    manifest, owner = metadata.manifest, node.shelf.replicas[flight.set_id].owner
    with await asyncio.to_thread(store.stage, flight.txid) as staging:
        flight.linked = await sharing.link(node, store, owner, flight.txid, flight.content, staging, manifest)
    needed = await asyncio.to_thread(_needed, manifest) - flight.linked.bytes
    await node.space.grow(flight.txid, needed)
    if flight.linked.paths:
        await node.space.shrink(flight.txid, needed)
    await to_the_end(asyncio.to_thread(_prepare, node, store, flight, metadata))


def _prepare(node: Node, store: Store, flight: Flight, metadata: Metadata) -> None:
    """Make the tree, with its metadata beside it, and give back the blocks that the first bytes will take."""
    with store.stage(flight.txid) as staging:
        staging.prepare(metadata.manifest)
        if metadata.places is not None:
            staging.put_places(metadata.places)
        _seal(flight, staging, metadata)
    if flight.maker is not None and flight.linked.paths:  # these are not to be read only to be hashed
        linked = (entry for entry in metadata.manifest.files() if entry.path in flight.linked.paths)
        for entry, leaves in links.leaves_of(store, flight.linked.donors, linked):
            flight.maker.put(entry.path, 0, leaves)
    ballast = node.space.ballast(flight.txid)
    if ballast is not None:
        ballast.use(beside.AHEAD)


async def without_links(node: Node, flight: Flight, metadata: Metadata, error: IntegrityFailed) -> None:
    """What was linked is damaged: all of it is to come, and what it was linked from is read and withheld. `NoSpace`."""
    donors, store = flight.linked.donors, node.stores[node.shelf.replicas[flight.set_id].tier]
    node.counters.note("sharing.damaged", error.message, set=flight.set_id[:8])
    await let_go(node, flight)
    needed = await asyncio.to_thread(_needed, metadata.manifest)
    await node.space.grow(flight.txid, needed)
    if flight.maker is not None:  # what it was given is to be made of what comes
        await _seal_again(node, flight, metadata)
    for donor in donors:
        node.fly(f"suspect {store.tier} {donor}", partial(_read_again, node, store, donor))


async def _read_again(node: Node, store: Store, content: str) -> None:
    await damage.settle(node, store, content, await verify.scan(node, store, content, fresh=True))


def _needed(manifest: Manifest) -> int:
    return capacity.physical(manifest) + layout.pack_bytes(manifest)

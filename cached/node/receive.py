"""Receive: bring an accepted replica here, from whoever has it, until it is committed or there is no way left.

metadata (verified) -> exact space -> staged tree -> transfer by direct or BitTorrent, falling back from one to the
other -> publish -> one transaction -> announce -> seed. A transfer with a row is resumed after a restart from what
is verified on disk.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, ReservationRow, TransferRow
from cached.catalog.tx import Tx
from cached.errors import CachedError, IntegrityFailed, NoSource, NoSpace
from cached.leases import capacity
from cached.node import announce, seeding, sources
from cached.node.flight import Flight
from cached.node.metadata import Metadata, obtain
from cached.node.node import Node
from cached.node.shelf import Changes
from cached.replication import layout, method
from cached.replication.transfer import FetchJob
from cached.sets import manifest as manifests

RECEIVE_METADATA = faults.declare("receive.metadata")
RECEIVE_PREPARED = faults.declare("receive.prepared")
RECEIVE_TRANSFERRED = faults.declare("receive.transferred")
RECEIVE_PUBLISHED = faults.declare("receive.published")
RECEIVE_COMMITTED = faults.declare("receive.committed")

#: Rounds over all methods before a transfer gives up, and the pause after each, in seconds.
ROUNDS = 6
PAUSE = 2.0


def start(node: Node, set_id: str, *, receivers: int = 1, piece_size: int = 0) -> Flight:
    """Start, or join, the transfer of an accepted set."""
    running = node.transfers.get(set_id)
    if running is not None and not running.ended.is_set():
        return running
    row = node.shelf.replicas[set_id]
    flight = Flight(
        set_id=set_id,
        content=row.content,
        txid=node.accepted[set_id],
        receivers=receivers,
        piece_size=piece_size,
    )
    flight.progress.bytes_wanted = row.bytes
    node.transfers[set_id] = flight
    node.fly(f"receive {set_id}", lambda: _run(node, flight))
    return flight


async def refetch(node: Node, row: ReplicaRow) -> None:
    """Get the bytes of a committed replica again: they are gone or damaged. Its grant stays. Raises `NoSpace`."""
    record, txid = node.shelf.known[row.set_id].record, node.new_id()
    size = capacity.estimate(record.bytes, record.files)
    await node.space.reserve(
        ReservationRow(
            txid=txid,
            purpose="replica",
            tier=row.tier,
            bytes=size,
            owner=row.owner,
            set_id=row.set_id,
            content=row.content,
        )
    )
    coming = ContentRow(content=row.content, tier=row.tier, bytes=row.bytes, physical=size, state="COMING")
    transfer = TransferRow(txid=txid, set_id=row.set_id, content=row.content, tier=row.tier, source="")
    await node.shelf.keep(
        Changes(
            contents=(coming,),
            replicas=(msgspec.structs.replace(row, state="TRANSFERRING"),),
            also=lambda tx: tx.put_transfer(transfer),
        )
    )
    node.accepted[row.set_id] = txid
    start(node, row.set_id)


async def resume_all(node: Node, rows: list[TransferRow]) -> None:
    """After a restart: go on with every transfer that was promised."""
    for row in rows:
        if row.set_id in node.shelf.replicas:
            node.accepted[row.set_id] = row.txid
            start(node, row.set_id, piece_size=row.piece_size)


async def cancel(node: Node, set_id: str) -> None:
    """Stop a transfer and leave nothing of it behind; nothing happens when none runs."""
    task = node.flights.get(f"receive {set_id}")
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await _undo(node, set_id)


async def _run(node: Node, flight: Flight) -> None:
    try:
        async with node.locks(f"receive {flight.content}"):
            await _receive(node, flight)
    except CachedError as error:
        flight.error = error
        node.counters.note("receive.failed", error.message, set=flight.set_id[:8])
        node.rejections.add_own(flight.set_id, f"the transfer failed: {error.message}", seconds=30.0)
        await _undo(node, flight.set_id)
    finally:
        flight.ended.set()
        node.transfers.pop(flight.set_id, None)
        if not node.draining:
            announce.publish(node)


async def _receive(node: Node, flight: Flight) -> None:
    row = node.shelf.replicas[flight.set_id]
    if not node.stores[row.tier].has(flight.content):
        metadata = await obtain(node, node.shelf.known[flight.set_id], flight.progress)
        faults.point(RECEIVE_METADATA)
        await _fit(node, flight, metadata)
        await _transfer(node, flight, metadata)
        faults.point(RECEIVE_TRANSFERRED)
    await asyncio.shield(_commit(node, flight))
    node.counters.add("replicas_received")
    announce.publish(node, flight.set_id)
    await seeding.refresh(node, flight.content)
    node.stirred.set()


async def _fit(node: Node, flight: Flight, metadata: Metadata) -> None:
    """Check the promise against the real manifest; a record that understated its size is refused."""
    row, record = node.shelf.replicas[flight.set_id], node.shelf.known[flight.set_id].record
    manifest = metadata.manifest
    if (manifest.total_bytes, manifest.file_count) != (record.bytes, record.files):
        raise IntegrityFailed(f"the record of {record.name} does not describe its content")
    await node.space.grow(flight.txid, capacity.physical(manifest) + layout.pack_bytes(manifest))
    store = node.stores[row.tier]

    def prepare() -> None:
        with store.stage(flight.txid) as staging:
            staging.prepare(manifest)
            staging.seal(manifests.encode(manifest), metadata.leaves, metadata.mtimes)

    await asyncio.to_thread(prepare)
    faults.point(RECEIVE_PREPARED)


async def _transfer(node: Node, flight: Flight, metadata: Metadata) -> None:
    job = FetchJob(
        content=flight.content,
        manifest=metadata.manifest,
        leaves=metadata.leaves,
        data=node.stores[node.shelf.replicas[flight.set_id].tier].root / "incoming" / flight.txid / "data",
        piece_size=flight.piece_size or layout.piece_size(metadata.manifest.total_bytes, flight.receivers),
        progress=flight.progress,
    )
    failure: CachedError = NoSource("no node that has the set can be reached")
    async with sources.introduced(node, flight.set_id) as holders:
        for attempt in range(ROUNDS):
            for name in _methods(node, flight):
                flight.method = name
                try:
                    await _by(node, name, job, holders)
                    return
                except (NoSpace, IntegrityFailed):
                    raise
                except CachedError as error:
                    failure = error
                    flight.progress.reason = error.message
                    node.counters.note(f"receive.{name}_failed", error.message, set=flight.set_id[:8])
            await asyncio.sleep(PAUSE * (attempt + 1))
    raise failure


def _methods(node: Node, flight: Flight) -> list[str]:
    """Return the methods to try, best first."""
    record = node.shelf.known[flight.set_id].record
    allowed = [name for name in node.config.replication.methods if name in record.methods]
    best = method.choose(
        record.methods,
        record.methods,
        node.config.replication.methods,
        record.bytes,
        max(flight.receivers, sources.receivers(node, flight.set_id)),
    )
    return sorted(allowed, key=lambda name: name != best)


async def _by(node: Node, name: str, job: FetchJob, holders: sources.Introduced) -> None:
    if not job.manifest.total_bytes:
        return
    if name == "bittorrent":
        await node.swarm.fetch(job, holders.swarm, holders.source())
    else:
        await node.direct.fetch(job, holders.direct)


async def _commit(node: Node, flight: Flight) -> None:
    set_id, txid = flight.set_id, flight.txid
    row, known, now = node.shelf.replicas[set_id], node.shelf.known[set_id], node.now()
    store = node.stores[row.tier]
    async with node.locks(f"content {flight.content}"):
        here = node.shelf.contents.get((flight.content, row.tier))
        if here is None or here.state != "STABLE":

            def publish() -> int:
                if store.has(flight.content):
                    store.put_record(flight.content, known.aged(now))
                else:
                    with store.stage(txid) as staging:
                        staging.put_record(known.aged(now))
                    store.publish(txid, flight.content)
                return capacity.physical(store.manifest(flight.content))

            physical = await asyncio.to_thread(publish)
            faults.point(RECEIVE_PUBLISHED)
            here = ContentRow(
                content=flight.content, tier=row.tier, bytes=row.bytes, physical=physical, state="STABLE"
            )
        else:
            await asyncio.to_thread(store.put_record, flight.content, known.aged(now))

        def landed(tx: Tx) -> None:
            tx.delete_transfer(txid)
            tx.delete_reservation(txid)

        await node.shelf.keep(
            Changes(
                contents=(here,),
                replicas=(
                    msgspec.structs.replace(
                        node.shelf.replicas[set_id], state="COMMITTED", verified_boot=now.boot_id, reason=""
                    ),
                ),
                also=landed,
            )
        )
    faults.point(RECEIVE_COMMITTED)
    node.space.settle(txid)
    node.accepted.pop(set_id, None)
    leftover = await asyncio.to_thread(store.discard, txid)
    if leftover is not None:
        await asyncio.to_thread(store.empty, leftover)


async def _undo(node: Node, set_id: str) -> None:
    """Remove an uncommitted replica: its staging area, its rows and its reservation."""
    txid = node.accepted.pop(set_id, "")
    row = node.shelf.replicas.get(set_id)
    if row is None or row.state != "TRANSFERRING":
        return
    store = node.stores[row.tier]
    await node.swarm.unseed(row.content)
    trashed = await asyncio.to_thread(store.discard, txid) if txid else None
    others = node.shelf.sets_of_content(row.content) - {set_id}
    content = node.shelf.contents.get((row.content, row.tier))
    orphan = content is not None and content.state == "COMING" and not others
    await node.shelf.keep(
        Changes(
            drop_replicas=(set_id,),
            drop_contents=((row.content, row.tier),) if orphan else (),
            also=lambda tx: tx.delete_transfer(txid),
        )
    )
    await node.space.release(txid)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)

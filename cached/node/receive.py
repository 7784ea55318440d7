"""Receive: bring an accepted replica here, from whoever has it, until it is committed or there is no way left.

metadata (verified) -> exact space -> staged tree -> transfer by direct or BitTorrent, falling back from one to the
other -> publish -> one transaction -> announce -> seed. A transfer with a row is resumed after a restart from what
is verified on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial

from msgspec import structs

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, ReservationRow, TransferRow
from cached.catalog.tx import Tx
from cached.critical import to_the_end
from cached.errors import CachedError, IntegrityFailed, NoSource, NoSpace
from cached.leases import capacity
from cached.node import announce, beside, handed_on, meeting, prepare, seeding, sharing, sources, ways
from cached.node.enclosing import enclosed_in
from cached.node.flight import Flight
from cached.node.joined import Enclosed
from cached.node.kept import obtain
from cached.node.metadata import Metadata, staged
from cached.node.node import Node
from cached.node.shelf import Changes
from cached.origin.places import Places
from cached.replication.serving import FEW
from cached.replication.transfer import FetchJob
from cached.sets.coarse import Coarse
from cached.sets.manifest import Manifest
from cached.sets.set import SignedRecord
from cached.storage.disk import Store

RECEIVE_METADATA = faults.declare("receive.metadata")
RECEIVE_TRANSFERRED = faults.declare("receive.transferred")
RECEIVE_PUBLISHED = faults.declare("receive.published")
RECEIVE_COMMITTED = faults.declare("receive.committed")

#: Of a transfer whose bytes nobody has vouched for: they must come from the origin.
UNPROVEN = b"unproven"
#: Rounds over all methods before a transfer gives up, and the pause after each, in seconds.
ROUNDS = 6
PAUSE = 2.0


def start(
    node: Node,
    set_id: str,
    *,
    receivers: int = 1,
    piece_size: int = 0,
    fresh: bool = False,
    enclosed: Enclosed | None = None,
) -> Flight:
    """Start, or join, the transfer of an accepted set; a `fresh` one has nothing in its staging area."""
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
        fresh=fresh,
        enclosed=enclosed,
    )
    flight.progress.bytes_wanted = row.bytes
    node.transfers[set_id] = flight
    node.fly(f"receive {set_id}", lambda: _run(node, flight))
    return flight


async def refetch(node: Node, row: ReplicaRow) -> None:
    """Get the bytes of a committed replica again: they are gone or damaged. Its grant stays. Raises `NoSpace`."""
    await to_the_end(_refetch(node, row))


async def _refetch(node: Node, row: ReplicaRow) -> None:
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

    waiting = partial(structs.replace, state="TRANSFERRING", reason=row.reason)
    changes = Changes(
        contents=(coming,), edits=((row.set_id, waiting),), also=lambda tx: tx.put_transfer(transfer)
    )
    try:
        await node.shelf.keep(changes)
    except BaseException:
        await node.space.undo(txid)
        raise
    node.accepted[row.set_id] = txid
    node.owed.add(row.set_id)
    start(node, row.set_id)


async def resume_all(node: Node, rows: list[TransferRow]) -> None:
    """After a restart: go on with every transfer that was promised."""
    for row in rows:
        if row.set_id in node.shelf.replicas:
            node.accepted[row.set_id] = row.txid
            if row.offer == UNPROVEN:
                node.unproven.add(row.set_id)
            if row.source:
                node.sources[row.set_id] = row.source
            else:
                node.owed.add(row.set_id)
            start(node, row.set_id, piece_size=row.piece_size)


def retry(node: Node) -> None:
    """Try again to get the bytes that this node owes: it had them, they are lost, and nobody could give them so far."""
    for set_id in sorted(node.owed):
        if set_id not in node.transfers and node.rejections.own(set_id) is None:
            start(node, set_id)


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
        await _failed(node, flight, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody is to wait for this transfer for ever
        node.counters.background_failed(f"receive {flight.set_id}", error)
        await _failed(
            node, flight, CachedError("the transfer met an unexpected error: the log has the details")
        )
    finally:
        try:
            await to_the_end(_let_go(node, flight))
        finally:  # no wait after this: whoever sees that it has ended may begin another at once
            flight.ended.set()
            if node.transfers.get(flight.set_id) is flight:
                del node.transfers[flight.set_id]
            row = node.shelf.replicas.get(flight.set_id)
            if not node.draining and (row is None or row.state != "COMMITTED"):  # else that has been told
                announce.publish(node)


async def _let_go(node: Node, flight: Flight) -> None:
    await prepare.let_go(node, flight)
    if flight.writeback is not None or flight.maker is not None:
        await asyncio.to_thread(flight.close)


async def _failed(node: Node, flight: Flight, error: CachedError) -> None:
    flight.error = error
    if node.draining:
        return  # what is here stays, and the next start goes on
    node.counters.note("receive.failed", error.message, set=flight.set_id[:8])
    node.rejections.add_own(flight.set_id, f"the transfer failed: {error.message}", seconds=30.0, failed=True)
    row = node.shelf.replicas.get(flight.set_id)
    if flight.set_id not in node.owed or row is None or node.left(row.grant) <= 0:
        await _undo(node, flight.set_id)


async def _receive(node: Node, flight: Flight) -> None:
    row, manifest = node.shelf.replicas[flight.set_id], None
    here = node.stores[row.tier].has(flight.content)
    if not (here and ways.believed(node, flight.set_id)):
        async with meeting.held(node, flight.set_id, flight.enclosed) as holders:  # while the metadata comes
            metadata = await _metadata(node, flight, row, holders)
            faults.point(RECEIVE_METADATA)
            manifest = metadata.manifest
            await prepare.fit(node, flight, metadata)
            await holders.met.wait()
            await _bring(node, flight, metadata, holders)
        faults.point(RECEIVE_TRANSFERRED)
    elif not sources.proven(node, node.shelf.known[flight.set_id]):
        await obtain(node, node.shelf.known[flight.set_id], flight.progress)  # whoever offers it must have it
    await to_the_end(_commit(node, flight, manifest))
    node.counters.note(
        "replicas_received",
        "a set has come",
        set=flight.set_id[:8],
        bytes=row.bytes,
        method=flight.method or "none",
        seconds=round(time.monotonic() - flight.began, 4),
    )
    announce.publish(node, flight.set_id)
    await seeding.refresh(node, flight.content)
    node.stirred.set(flight.set_id)


async def _metadata(node: Node, flight: Flight, row: ReplicaRow, holders: meeting.Meeting) -> Metadata:
    known = node.shelf.known[flight.set_id]
    found = await enclosed_in(flight.enclosed, known)
    if found is not None:
        node.counters.add("metadata.enclosed")
    else:
        found = await staged(node.stores[row.tier], flight.txid, flight.content)
    if found is None:
        described = flight.enclosed.described if flight.enclosed is not None else ()
        found = await handed_on.take(node, known, holders, described)
    if found is None:
        receivers = max(flight.receivers, sources.receivers(node, flight.set_id))
        coarse = flight.set_id not in node.unproven and seeding.takes_coarse(node, known, receivers)
        found = await obtain(node, known, flight.progress, coarse=coarse)
    return found


async def _bring(node: Node, flight: Flight, metadata: Metadata, holders: meeting.Meeting) -> None:
    """Bring what is not here already; all of it, should what is here turn out to be damaged."""
    try:
        await _transfer(node, flight, metadata, holders)
    except IntegrityFailed as error:
        if not error.details.get("linked"):
            raise
        await prepare.without_links(node, flight, metadata, error)
        await _transfer(node, flight, metadata, holders)


async def _transfer(node: Node, flight: Flight, metadata: Metadata, holders: meeting.Meeting) -> None:
    places: Places | None = None
    few = len(metadata.manifest.entries) <= FEW
    job = FetchJob(
        content=flight.content,
        manifest=metadata.manifest,
        digests=metadata.digests,
        arrived=flight.maker.note if flight.maker is not None else None,
        proved=flight.maker.put if flight.maker is not None else None,
        data=node.stores[node.shelf.replicas[flight.set_id].tier].root / "incoming" / flight.txid / "data",
        piece_size=flight.piece_size or seeding.pieces_for(metadata.manifest.total_bytes, flight.receivers),
        receivers=flight.receivers,
        progress=flight.progress,
        first=lambda: node.jobs.want(flight.set_id),
        elsewhere=lambda: ways.several(node, flight, holders, places),
        linked=flight.linked.paths,
        times=metadata.times() if few else await asyncio.to_thread(metadata.times),
        made=flight.made,
        proven=True,
        fresh=flight.fresh,
        given=flight.enclosed.given() if flight.enclosed is not None else None,
    )
    flight.fresh = False
    failure: CachedError = NoSource("no node that has the set can be reached")
    async with beside.everything(node, flight):
        for attempt in range(ROUNDS):
            places = await ways.places_of(node, flight, metadata, holders)
            for number, name in enumerate(ways.ordered(node, flight, holders, places)):
                flight.method = name
                flight.made.clear()
                try:
                    if isinstance(job.digests, Coarse) and name == ways.ORIGIN:
                        metadata = await prepare.whole(node, flight, metadata)
                        job = replace(job, digests=metadata.digests, arrived=None, proved=None)
                    await ways.go(node, name, job, holders, places, fallback=number > 0)
                    await beside.prove(node, flight)
                    return
                except CachedError as error:
                    job = replace(job, fresh=False)
                    if await _lasts(node, flight, error):
                        raise
                    failure = error
                    if isinstance(error, IntegrityFailed):  # what a swarm brought is not to be given on
                        await node.swarm.unseed(flight.content)
                    flight.progress.reason = error.message
                    node.counters.note(f"receive.{name}_failed", error.message, set=flight.set_id[:8])
            await asyncio.sleep(PAUSE * (attempt + 1))
    raise failure


async def _lasts(node: Node, flight: Flight, error: CachedError) -> bool:
    """Tell whether no other way and no other time helps; the bytes may have come faster than space was given back.

    Of what is linked all has to come. Other bytes that are not right are somebody's fault, and others may have them.
    """
    if isinstance(error, NoSpace):
        return not await beside.gave_all(node, flight)
    return isinstance(error, IntegrityFailed) and bool(error.details.get("linked"))


async def _commit(node: Node, flight: Flight, manifest: Manifest | None) -> None:
    set_id, txid = flight.set_id, flight.txid
    row, boot = node.shelf.replicas[set_id], node.now().boot_id
    store = node.stores[row.tier]
    async with node.locks(f"content {flight.content}"):
        here = node.shelf.contents.get((flight.content, row.tier))
        published = here is None or here.state != "STABLE"
        record = node.shelf.known[set_id].aged(node.now())

        def landed(tx: Tx) -> None:
            tx.delete_transfer(txid)
            tx.delete_reservation(txid)

        def committed(stored: ReplicaRow) -> ReplicaRow:
            return structs.replace(stored, state="COMMITTED", verified_boot=boot, reason="")

        try:
            physical, was_here = await asyncio.to_thread(_publish, store, flight, record, manifest)
            faults.point(RECEIVE_PUBLISHED)
            there = ContentRow(
                content=flight.content, tier=row.tier, bytes=row.bytes, physical=physical, state="STABLE"
            )
            landing = sharing.landing(there, flight.linked)
            async with sharing.joining(node, row.tier, flight.linked):
                await node.shelf.keep(
                    Changes(content_edits=(landing,), edits=((set_id, committed),), also=landed)
                )
        except BaseException:
            if published:
                await _take_back(store, flight.content)
            raise
    faults.point(RECEIVE_COMMITTED)
    if manifest is None and published:  # by a daemon that came to its end before it was written down
        await sharing.recount(node, row.tier)
    node.space.settle(txid)
    node.accepted.pop(set_id, None)
    node.sources.pop(set_id, None)
    node.owed.discard(set_id)
    node.unproven.discard(set_id)
    if was_here and (leftover := await asyncio.to_thread(store.discard, txid)) is not None:
        await asyncio.to_thread(store.empty, leftover)


def _publish(
    store: Store, flight: Flight, record: SignedRecord, manifest: Manifest | None
) -> tuple[int, bool]:
    """Make the staged content visible unless it is there already; return its physical bytes, and whether it was."""
    was_here = store.has(flight.content)
    if was_here:
        store.put_record(flight.content, record)
    else:
        store.stage_record(flight.txid, record)
        store.publish(flight.txid, flight.content, manifest, flight.linked.paths, flight.written, flight.made)
    return capacity.physical(manifest or store.manifest(flight.content)), was_here


async def _take_back(store: Store, content: str) -> None:
    """Remove what was published and could not be committed: nobody has heard of it."""
    trashed = await asyncio.to_thread(store.retire, content)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)


async def _undo(node: Node, set_id: str) -> None:
    """Remove an uncommitted replica: its staging area, its rows and its reservation."""
    await to_the_end(_remove(node, set_id))


async def _remove(node: Node, set_id: str) -> None:
    txid = node.accepted.pop(set_id, "")
    node.sources.pop(set_id, None)
    node.owed.discard(set_id)
    row = node.shelf.replicas.get(set_id)
    if row is None or row.state != "TRANSFERRING":
        return
    store = node.stores[row.tier]
    if not node.shelf.sets_of_content(row.content) - {set_id}:
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

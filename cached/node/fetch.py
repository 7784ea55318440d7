"""Fetch: bring a set to this node because somebody here wants it now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from cached import wire
from cached.addresses import parse_prefix
from cached.critical import to_the_end
from cached.errors import CachedError, NoSource, PeerUnreachable, RequirementsRefused, TimedOut
from cached.node import announce, offer, origins
from cached.node.access import check_read, resolve
from cached.node.caller import Caller
from cached.node.flight import Flight
from cached.node.node import Node
from cached.node.shelf import Known
from cached.node.views import replica_views
from cached.peers.records import Peer
from cached.replication import placement
from cached.sets.names import SetRef
from cached.speed import seconds_left

Report = Callable[[wire.Progress], None]

#: Seconds between two reports of progress.
REPORT = 0.25


async def fetch(node: Node, caller: Caller, ref: SetRef, progress: Report | None) -> wire.ReplicateReply:
    """Bring a set here and wait until it is committed. Raises `NoSource`, `RequirementsRefused`, `NoSpace`, ..."""
    known = resolve(node.shelf, caller, ref)
    check_read(caller, known)
    await bring(node, known, progress)
    return wire.ReplicateReply(items=replica_views(node, known), complete=True, wanted=1, have=1)


async def bring(node: Node, known: Known, progress: Report | None) -> None:
    """Request the set from a holder unless it is on its way already, then wait for it. Cancelling stops only the
    wait.
    """
    set_id = known.record.id
    failure: CachedError | None = None
    for _ in range(2):
        row = node.shelf.replicas.get(set_id)
        if row is not None and row.state == "COMMITTED":
            return
        if row is None:
            await _request(node, known)
        flight = node.transfers.get(set_id)
        if flight is not None:
            with node.jobs.wait(set_id):
                await _watch(node, flight, progress)
            failure = flight.error
            if failure is not None and failure.exit_code != 1:
                raise failure
    if failure is not None:
        raise failure
    raise NoSource(
        f"{known.record.name} could not be brought here", hint="cached show tells the state of its replicas"
    )


async def _request(node: Node, known: Known) -> None:
    record = known.record
    holders = [
        entry.node.record.id
        for entry in node.holders(record.id)
        if entry.node.alive
        and entry.node.record.id != node.id
        and entry.holding.state in ("COMMITTED", "EXPIRED")
    ]
    if not holders and await _offered_by_the_origin(node, known):
        return
    if not holders:
        raise NoSource(
            f"no live node holds {record.name}", hint="cached show lists its replicas and when they were seen"
        )
    node.rejections.welcome(record.id)
    refusal: CachedError | None = None
    for holder in placement.givers(node.id, record.originator, holders):
        try:
            body = {"set": record.id, "ad": announce.ad(node)}
            proposed = msgspec.convert(await node.link.call(holder, "offer.request", body, 10.0), offer.Offer)
        except (CachedError, msgspec.ValidationError) as error:
            if refusal is None or not isinstance(refusal, RequirementsRefused):
                refusal = (
                    error
                    if isinstance(error, CachedError)
                    else NoSource(f"node {holder[:8]} answered nonsense")
                )
            continue
        entry = node.directory.node(holder)
        source = Peer(node_id=holder, domains=entry.domains if entry is not None else frozenset())
        answer = await to_the_end(offer.consider(node, source, proposed))
        if answer.answer == "OK":
            return
        raise CachedError.from_wire(
            {"code": answer.code, "message": f"this node refuses {record.name}: {answer.reason}"}
        )
    assert refusal is not None
    unheard = isinstance(refusal, NoSource | PeerUnreachable | TimedOut)
    if not (unheard and await _offered_by_the_origin(node, known)):
        raise refusal


async def _offered_by_the_origin(node: Node, known: Known) -> bool:
    """Accept a set that no node holds but the origin keeps. Raises what this node has against it."""
    record = known.record
    if not record.origin or not origins.serves(node, record.owner, parse_prefix(record.origin).bucket):
        return False
    node.rejections.welcome(record.id)
    proposed = offer.Offer(
        record=known.aged(node.now()),
        lease_seconds=node.left(known.lease),
        requested=True,
        methods=record.methods,
    )
    nobody = Peer(node_id="", domains=node.identity.domains)
    answer = await to_the_end(offer.consider(node, nobody, proposed))
    if answer.answer == "OK":
        return True
    raise CachedError.from_wire(
        {"code": answer.code, "message": f"this node refuses {record.name}: {answer.reason}"}
    )


async def _watch(node: Node, flight: Flight, progress: Report | None) -> None:
    while not flight.ended.is_set():
        if progress is not None:
            progress(report(node, flight))
        try:
            await asyncio.wait_for(flight.ended.wait(), REPORT)
        except TimeoutError:
            continue


def report(node: Node, flight: Flight) -> wire.Progress:
    """Return how far a transfer to this node is."""
    now, rate = flight.progress, flight.rate()
    return wire.Progress(
        bytes_present=now.bytes_present,
        bytes_wanted=now.bytes_wanted,
        state=now.state,
        reason=now.reason,
        nodes=[
            wire.NodeProgress(
                node=node.directory.name,
                host=node.host,
                state=now.state,
                bytes_present=now.bytes_present,
                bytes_wanted=now.bytes_wanted,
                reason=now.reason,
                bytes_per_second=rate or None,
                seconds_left=seconds_left(now.bytes_present, now.bytes_wanted, rate),
            )
        ],
    )

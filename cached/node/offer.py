"""Offer: a holder proposes a replica, the receiver looks again at its present state, and answers once its promise
is durable.

Also the other direction: a node asks a holder for an offer, or introduces itself to one more holder as a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

import msgspec

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, ReservationRow, TransferRow
from cached.catalog.tx import Tx
from cached.critical import to_the_end
from cached.errors import Busy, CachedError, NotFound, RequirementsRefused
from cached.leases import capacity, policy
from cached.node import announce, book, consent, damage, enclosing, metadata, receive, seeding, sources
from cached.node.joined import CONTENT, DESCRIBED, NEIGHBOURS, Enclosed, Joined, NodeId
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.peers.records import Peer
from cached.replication import method
from cached.replication.membership import is_piece_size
from cached.sets.set import Method, SetRecord, SignedRecord

OFFER_RESERVED = faults.declare("offer.reserved")
OFFER_ACCEPTED = faults.declare("offer.accepted")


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A replica proposed by a holder."""

    record: SignedRecord
    #: Seconds that the owner still wants the set, as the holder knows.
    lease_seconds: float
    #: Asked for by a job on the receiver.
    requested: bool = False
    #: Nodes that are to receive it at the same time, the one addressed included.
    receivers: int = 1
    methods: tuple[Method, ...] = ()
    #: Piece size of the torrent, 0 while there is none.
    piece_size: int = 0
    #: How the holder gives the bytes: the receiver need not introduce itself.
    joined: Joined | None = None
    #: The set's metadata, where that is little (`cached.node.metadata`).
    metadata: bytes = b""
    #: Nodes that have got the metadata and hand it on, where it does not come with the offer.
    described: tuple[NodeId, ...] = ()
    #: Of those that get it at the same time, the ones with which the receiver is to share it.
    neighbours: tuple[NodeId, ...] = ()
    #: All bytes of its files in canonical order, where they are very few (`cached.node.joined`).
    content: bytes = b""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver says to an offer."""

    answer: Literal["OK", "REJECTED"]
    reason: str = ""
    #: Stable code of the refusal, as of `cached.errors`.
    code: str = ""
    grant_seconds: float = 0.0


async def consider(node: Node, peer: Peer, offer: Offer) -> Answer:
    """Accept or refuse an offer. An OK is durable before it is spoken; the transfer then runs in the background.

    What it tells of the set that is new is written down with the promise, or without one when that is refused.
    """
    news: Known | None = None
    try:
        news = book.news(node, offer.record)
        known = news or await book.learn(node, offer.record, verified=True)
        seconds = await _accept(node, peer, known, offer)
    except CachedError as refusal:
        if news is not None:
            with contextlib.suppress(CachedError):  # it goes, or another one has come meanwhile
                await book.learn(node, offer.record, verified=True)
        node.counters.note("offer.refused", refusal.message, source=peer.node_id[:8])
        return Answer(answer="REJECTED", reason=refusal.message, code=refusal.code)
    return Answer(answer="OK", grant_seconds=seconds)


async def _accept(node: Node, peer: Peer, known: Known, offer: Offer) -> float:
    record = known.record
    consent.check_trusted(peer, known)
    held = _held(node, known)
    if held is not None:
        return node.left(held.grant)
    declined = node.rejections.own(record.id)
    if declined is not None and not offer.requested:
        raise (CachedError if declined.failed else RequirementsRefused)(declined.reason)
    if record.tier not in node.stores:
        raise RequirementsRefused(f"this node has no {record.tier} tier")
    verdict = await consent.own_verdict(node, known, requested=offer.requested)
    if not verdict.matches:
        raise RequirementsRefused("; ".join(verdict.reasons), reasons=list(verdict.reasons))
    methods = [m for m in node.config.replication.methods if m in offer.methods and m in record.methods]
    if not methods:
        raise RequirementsRefused("no replication method is allowed by the set, the sender and this node")
    grant = policy.decide(
        asked=int(min(offer.lease_seconds, node.left(known.lease))),
        min_lease=record.min_lease_seconds,
        max_lease=node.config.policy.max_lease,
        default=node.config.policy.default_lease,
        draining=node.draining,
    )
    async with node.locks(f"record {record.id}"):  # a deletion that arrives now waits, or has been
        known, _ = book.newest(node, known)
        held = _held(node, known)
        if held is not None:
            return node.left(held.grant)
        await to_the_end(_promise_and_start(node, peer, known, grant, offer))
    return grant.seconds


def _held(node: Node, known: Known) -> ReplicaRow | None:
    """Return this node's copy, when there is one to be kept.

    Raises `NotFound` for a set that is over, `Busy` while it goes.
    """
    if known.record.status != "live":
        raise NotFound(f"{known.record.name} has been {known.record.status}")
    held = node.shelf.replicas.get(known.record.id)
    if held is not None and held.state == "GOING":
        raise Busy("its replica here is just being deleted")
    return held


async def _promise_and_start(node: Node, peer: Peer, known: Known, grant: policy.Grant, offer: Offer) -> None:
    await _promise(node, peer, known, grant)
    piece_size = offer.piece_size if is_piece_size(offer.piece_size) else 0
    receive.start(
        node,
        known.record.id,
        receivers=max(1, offer.receivers),
        piece_size=piece_size,
        fresh=True,
        enclosed=Enclosed(
            node_id=peer.node_id,
            joined=offer.joined,
            metadata=offer.metadata if len(offer.metadata) <= enclosing.ENCLOSED + metadata.HEAD else b"",
            described=offer.described[:DESCRIBED],
            neighbours=offer.neighbours[:NEIGHBOURS],
            content=offer.content if len(offer.content) <= CONTENT else b"",
            when=asyncio.get_running_loop().time(),
        ),
    )
    # What is soon here is told of once it is: nobody shares its bytes meanwhile, or who does has been named to it.
    hurried = method.worth_sharing(known.record.bytes, others=1) and not offer.neighbours
    announce.publish(node, hurried=hurried)


async def _promise(node: Node, peer: Peer, known: Known, grant: policy.Grant) -> None:
    record, txid = known.record, node.new_id()
    size = 0 if _whole(node, record) else capacity.estimate(record.bytes, record.files)
    reservation = ReservationRow(
        txid=txid,
        purpose="replica",
        tier=record.tier,
        bytes=size,
        logical=record.bytes,
        owner=record.owner,
        set_id=record.id,
        content=record.content,
    )
    await node.space.reserve(reservation, write=False)
    try:
        faults.point(OFFER_RESERVED)
        async with node.locks(f"content {record.content}"):  # its bytes may just be going, with another set
            if not size and not _whole(node, record):
                raise Busy("its bytes here have just been deleted")
            before = node.shelf.known.get(record.id)
            known, news = book.newest(node, known)
            await node.shelf.keep(_promised(node, known, grant, reservation, peer.node_id, news=news))
    except BaseException:
        await to_the_end(node.space.undo(txid))
        raise
    node.accepted[record.id] = txid
    node.sources[record.id] = peer.node_id
    if news:
        book.taken(node, before, known)
    faults.point(OFFER_ACCEPTED)


def _whole(node: Node, record: SetRecord) -> bool:
    here = node.shelf.contents.get((record.content, record.tier))
    return here is not None and here.state == "STABLE"


def _promised(
    node: Node, known: Known, grant: policy.Grant, reservation: ReservationRow, source: str, *, news: bool
) -> Changes:
    """Return what a promise is: the replica, its transfer, the space set aside, and the set where that is news."""
    record = known.record
    here = node.shelf.contents.get((record.content, record.tier))
    if here is not None and here.state == "GOING":
        raise Busy("its bytes here are just being deleted")
    coming = ContentRow(
        content=record.content,
        tier=record.tier,
        bytes=record.bytes,
        physical=reservation.bytes,
        state="COMING",
    )
    row = ReplicaRow(
        set_id=record.id,
        content=record.content,
        tier=record.tier,
        state="TRANSFERRING",
        grant=node.after(grant.seconds),
        granted_seconds=grant.seconds,
        bytes=record.bytes,
        owner=record.owner,
        created_wall=node.now().wall,
    )
    transfer = TransferRow(
        txid=reservation.txid, set_id=record.id, content=record.content, tier=record.tier, source=source
    )

    def also(tx: Tx) -> None:
        tx.put_reservation(reservation)
        tx.put_transfer(transfer)

    return Changes(
        sets=(known,) if news else (),
        contents=() if here is not None else (coming,),
        replicas=(row,),
        also=also,
    )


async def make(node: Node, known: Known, *, requested: bool = False, receivers: int = 1) -> Offer:
    """Return the offer of a set that this node holds. Raises `IntegrityFailed` while its copy is damaged."""
    damage.check_whole(node, known)
    parameters = node.swarm.parameters(known.record.content) or {}
    held = node.shelf.replicas.get(known.record.id)
    sure = held is not None and sources.proven(node, known)
    # who asks alone may be one of many who do just now
    coarse = seeding.takes_coarse(node, known, max(receivers, sources.receivers(node, known.record.id) + 1))
    enclosed, content = await enclosing.to_enclose(node, known.record, coarse=coarse) if sure else (b"", b"")
    return Offer(
        record=known.aged(node.now()),
        lease_seconds=node.left(known.lease),
        requested=requested,
        receivers=receivers,
        methods=node.config.replication.methods,
        piece_size=int(parameters.get("piece_size", 0)),
        joined=sources.giving(node, held) if held is not None and sure else None,
        metadata=enclosed,
        content=content,
    )


async def requested(node: Node, peer: Peer, set_id: str, ad: dict[str, object]) -> Offer:
    """Answer a node that wants a set held here for a job: an offer, when the sender's side agrees.

    Raises `NotFound`, `Forbidden` or `RequirementsRefused`.
    """
    known = node.shelf.known.get(set_id)
    held = node.shelf.replicas.get(set_id)
    if known is None or known.record.status != "live" or held is None or held.state == "GOING":
        raise NotFound("this node does not hold that set")
    sources.check_proven(node, known)
    await consent.agree(node, peer, known, ad, requested=True)
    return await make(node, known, requested=True)

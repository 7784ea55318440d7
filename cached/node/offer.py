"""Offer: a holder proposes a replica, the receiver looks again at its present state, and answers once its promise
is durable.

Also the other direction: a node asks a holder for an offer, or introduces itself to one more holder as a reader.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, ReservationRow, TransferRow
from cached.errors import CachedError, NotFound, RequirementsRefused
from cached.leases import capacity, policy
from cached.node import announce, book, consent, receive
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.peers.records import Peer
from cached.sets.set import Method, SignedRecord

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


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver says to an offer."""

    answer: Literal["OK", "REJECTED"]
    reason: str = ""
    #: Stable code of the refusal, as of `cached.errors`.
    code: str = ""
    grant_seconds: float = 0.0


async def consider(node: Node, peer: Peer, offer: Offer) -> Answer:
    """Accept or refuse an offer. An OK is durable before it is spoken; the transfer then runs in the background."""
    try:
        known = await book.learn(node, offer.record)
        seconds = await _accept(node, peer, known, offer)
    except CachedError as refusal:
        node.counters.note("offer.refused", refusal.message, source=peer.node_id[:8])
        return Answer(answer="REJECTED", reason=refusal.message, code=refusal.code)
    return Answer(answer="OK", grant_seconds=seconds)


async def _accept(node: Node, peer: Peer, known: Known, offer: Offer) -> float:
    record = known.record
    if record.status != "live":
        raise NotFound(f"{record.name} has been {record.status}")
    held = node.shelf.replicas.get(record.id)
    if held is not None and held.state != "GOING":
        return node.left(held.grant)
    if held is not None:
        raise RequirementsRefused("its replica here is just being deleted")
    declined = node.rejections.own(record.id)
    if declined and not offer.requested:
        raise RequirementsRefused(declined)
    verdict = await consent.own_verdict(node, known, requested=offer.requested)
    if not verdict.matches:
        raise RequirementsRefused("; ".join(verdict.reasons), reasons=list(verdict.reasons))
    methods = [m for m in node.config.replication.methods if m in offer.methods and m in record.methods]
    if not methods:
        raise RequirementsRefused("no replication method is allowed by the set, the sender and this node")
    grant = policy.decide(
        asked=int(offer.lease_seconds),
        min_lease=record.min_lease_seconds,
        max_lease=node.config.policy.max_lease,
        default=node.config.policy.default_lease,
        draining=node.draining,
    )
    async with node.locks(f"set {record.id}"):
        if record.id in node.shelf.replicas:
            return node.left(node.shelf.replicas[record.id].grant)
        await _promise(node, peer, known, grant)
    receive.start(node, record.id, receivers=offer.receivers, piece_size=offer.piece_size)
    announce.publish(node)
    return grant.seconds


async def _promise(node: Node, peer: Peer, known: Known, grant: policy.Grant) -> None:
    record, txid, now = known.record, node.new_id(), node.now()
    tier = record.tier
    here = node.shelf.contents.get((record.content, tier))
    whole = here is not None and here.state == "STABLE"
    size = 0 if whole else capacity.estimate(record.bytes, record.files)
    await node.space.reserve(
        ReservationRow(
            txid=txid,
            purpose="replica",
            tier=tier,
            bytes=size,
            logical=record.bytes,
            owner=record.owner,
            set_id=record.id,
            content=record.content,
        )
    )
    try:
        faults.point(OFFER_RESERVED)
        coming = ContentRow(
            content=record.content, tier=tier, bytes=record.bytes, physical=size, state="COMING"
        )
        await node.shelf.keep(
            Changes(
                sets=(known,),
                contents=() if here is not None else (coming,),
                replicas=(
                    ReplicaRow(
                        set_id=record.id,
                        content=record.content,
                        tier=tier,
                        state="TRANSFERRING",
                        grant=node.after(grant.seconds),
                        granted_seconds=grant.seconds,
                        bytes=record.bytes,
                        owner=record.owner,
                        created_wall=now.wall,
                    ),
                ),
                also=lambda tx: tx.put_transfer(
                    TransferRow(
                        txid=txid, set_id=record.id, content=record.content, tier=tier, source=peer.node_id
                    )
                ),
            )
        )
    except BaseException:
        await node.space.release(txid)
        raise
    node.accepted[record.id] = txid
    node.sources[record.id] = peer.node_id
    faults.point(OFFER_ACCEPTED)


async def make(node: Node, known: Known, *, requested: bool = False, receivers: int = 1) -> Offer:
    """Return the offer of a set that this node holds."""
    parameters = node.swarm.parameters(known.record.content) or {}
    return Offer(
        record=known.aged(node.now()),
        lease_seconds=node.left(known.lease),
        requested=requested,
        receivers=receivers,
        methods=node.config.replication.methods,
        piece_size=int(parameters.get("piece_size", 0)),
    )


async def requested(node: Node, peer: Peer, set_id: str, ad: dict[str, object]) -> Offer:
    """Answer a node that wants a set held here for a job: an offer, when the sender's side agrees.

    Raises `NotFound`, `Forbidden` or `RequirementsRefused`.
    """
    known = node.shelf.known.get(set_id)
    held = node.shelf.replicas.get(set_id)
    if known is None or known.record.status != "live" or held is None or held.state == "GOING":
        raise NotFound("this node does not hold that set")
    await consent.agree(node, peer, known, ad, requested=True)
    return await make(node, known, requested=True)

"""Drive: see to it that the sets this node answers for have the replicas that their owners want, and keep them.

The originator drives; while it is away, the live holder first in rendezvous order does. Something changed (a set, a
node, a replica) or a few seconds passed: then every set driven from here is looked at again. Only nodes that could
be offered something new are matched, and what was refused is not asked again before either ad changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

import msgspec

from cached import faults
from cached.errors import Busy, CachedError
from cached.matching.ads import Ad
from cached.node import consent, offer
from cached.node.node import Node
from cached.node.rejections import LASTS
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.peers.records import NodeEntry
from cached.replication import placement

DRIVE_OFFERED = faults.declare("drive.offered")

#: Seconds after which everything is looked at again although nothing is known to have changed.
ROUND = 10.0
#: Seconds that changes may gather before they are acted on.
GATHER = 0.05
#: Seconds after which a node is asked again that could not accept for the moment, or was not reached.
BUSY = 5.0


async def run(node: Node) -> None:
    """Look after the sets driven from here until cancelled or the node stops.

    Each set has a flight of its own: a node that is slow to answer for one set holds up no other.
    """
    node.stirred.set()  # what an earlier life of this node left undone
    while not node.draining:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND):
                await node.stirred.wait()
        await asyncio.sleep(GATHER)
        node.stirred.clear()
        try:
            for known in list(node.shelf.known.values()):
                if drives(node, known):
                    _look_soon(node, known.record.id)
        except Exception as error:  # noqa: BLE001 - whatever it is, replicas are looked after again in the next round
            node.counters.background_failed("drive", error)


def _look_soon(node: Node, set_id: str) -> None:
    if f"drive {set_id}" in node.flights:
        node.restless.add(set_id)
    else:
        node.fly(f"drive {set_id}", lambda: _look(node, set_id))


async def _look(node: Node, set_id: str) -> None:
    async with node.driving:
        known = node.shelf.known.get(set_id)
        if node.draining or known is None or not drives(node, known):
            return
        try:
            await look_after(node, known)
        except CachedError as error:
            node.counters.note("drive.failed", error.message, set=set_id[:8])
    if set_id in node.restless:
        node.restless.discard(set_id)
        node.stirred.set()


def drives(node: Node, known: Known) -> bool:
    """Tell whether this node answers for the replicas of a set at present."""
    record = known.record
    held = node.shelf.replicas.get(record.id)
    if record.status != "live" or held is None or node.left(known.lease) <= 0:
        return False
    if held.state != "COMMITTED":  # the others may help to read it from the origin
        return record.id in node.drawing and record.originator == node.id
    if (held.content, held.tier) in node.shelf.withheld:  # repaired before it is handed on
        return False
    holders = [
        entry.node.record.id
        for entry in node.holders(record.id)
        if entry.node.alive and entry.holding.state == "COMMITTED"
    ]
    return placement.driver(record.id, record.originator, holders) == node.id


async def look_after(node: Node, known: Known) -> None:
    """Offer a set to the nodes that should have it next, all at once."""
    candidates = await _candidates(node, known)
    chosen = placement.choose(known.record, candidates)
    if not chosen:
        return
    by_id = {entry.record.id: entry for entry in node.directory.nodes()}
    await asyncio.gather(
        *(offer_to(node, known, by_id[node_id], receivers=len(chosen)) for node_id in chosen)
    )


async def _candidates(node: Node, known: Known) -> list[placement.Candidate]:
    record = known.record
    holdings = {entry.node.record.id: entry.holding for entry in node.holders(record.id)}
    others = [entry for entry in node.directory.nodes() if entry.record.id != node.id]
    mine = consent.ad_of(node, known)
    asked = [
        entry
        for entry in others
        if entry.alive
        and entry.record.id not in holdings
        and trusted_with(entry, known)
        and not node.rejections.stands(record.id, entry.record.id, ads_digest(known, entry))
    ]
    verdicts = await node.matchmaker.match([(mine, entry.record.ad) for entry in asked])
    matching = {entry.record.id for entry, verdict in zip(asked, verdicts, strict=True) if verdict.matches}
    return [
        placement.Candidate(
            node_id=entry.record.id,
            host=entry.record.host,
            alive=entry.alive,
            matches=entry.record.id in matching,
            state=holdings[entry.record.id].state if entry.record.id in holdings else "",
            durable=not (entry.record.id in holdings and holdings[entry.record.id].volatile),
            originator=entry.record.id == record.originator,
        )
        for entry in others
    ]


async def offer_to(
    node: Node, known: Known, entry: NodeEntry, *, receivers: int = 1, requested: bool = False
) -> offer.Answer:
    """Offer a set to one node and remember what it says. Never raises for what the other side does."""
    record, peer = known.record, entry.record.id
    node.consents.give(peer, record.content)
    proposed = await offer.make(node, known, requested=requested, receivers=receivers)
    faults.point(DRIVE_OFFERED)
    try:
        answer = msgspec.convert(
            await node.link.call(peer, "offer.consider", msgspec.to_builtins(proposed), 15.0), offer.Answer
        )
    except (CachedError, msgspec.ValidationError) as error:
        reason = getattr(error, "message", "it answered nonsense")
        node.rejections.add(record.id, peer, f"not reached: {reason}", ads_digest(known, entry), seconds=BUSY)
        return offer.Answer(answer="REJECTED", reason=reason, code="peer_unreachable")
    if answer.answer == "REJECTED":
        node.counters.note("offer.rejected", answer.reason, set=record.id[:8], node=entry.record.name)
        lasts = BUSY if answer.code == Busy.code else LASTS
        node.rejections.add(record.id, peer, answer.reason, ads_digest(known, entry), seconds=lasts)
    else:
        node.counters.add("offer.accepted")
        node.rejections.accepted(record.id, peer)
    return answer


def ads_digest(known: Known, entry: NodeEntry) -> str:
    """Return what a refusal is bound to: this revision of the set and this ad of the node."""
    ad: Ad = {key: value for key, value in entry.record.ad.items() if key != "Reachable"}
    return hashlib.sha256(
        f"{known.record.revision} ".encode() + msgspec.json.encode(ad, order="sorted")
    ).hexdigest()

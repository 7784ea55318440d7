"""Drive: see to it that the sets this node answers for have the replicas that their owners want, and keep them.

The originator drives; while it is away, the live holder first in rendezvous order does. A set that changed is looked
at with all nodes, a node that changed with all sets, and nothing else: where there are many of both, everything
together is looked at but rarely. Only nodes that could be offered something new are matched, and what was refused is
not asked again before either ad changes, or the refusal lapses.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Iterable
from functools import partial

import msgspec

from cached import faults
from cached.errors import Busy, CachedError
from cached.matching.ads import Ad
from cached.node import consent, handed_on, offer, seeding, sources
from cached.node.node import Node
from cached.node.parallel import begin_each
from cached.node.rejections import LASTS
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.peers.records import Holding, NodeEntry
from cached.replication import mesh, placement
from cached.sets.set import ALL

DRIVE_OFFERED = faults.declare("drive.offered")

#: Seconds between two looks at refusals that have lapsed.
ROUND = 5.0
#: Seconds after which everything is looked at again although nothing is known to have changed, for each so many pairs
#: of a set and a node.
EVERYTHING = 60.0
PAIRS = 100_000
#: Seconds that changes may gather before they are acted on.
GATHER = 0.05
#: Seconds after which a node is asked again that could not accept for the moment, or was not reached.
BUSY = 5.0
#: Nodes that are asked at a time, at least, where each gets a stream of its own; and seconds for which the next one
#: waits for their answers.
AT_ONCE = 2
PATIENCE = 0.05
#: Seconds for which a copy counts that a node has accepted and not told of yet.
PROMISED = 2.0


async def run(node: Node) -> None:
    """Look after the sets driven from here until cancelled or the node stops.

    Each set has a flight of its own: a node that is slow to answer for one set holds up no other.
    """
    node.stirred.set()  # what an earlier life of this node left undone
    looked = time.monotonic()
    while not node.draining:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROUND):
                await node.stirred.wait()
        await asyncio.sleep(GATHER)
        news = node.stirred.take()
        try:
            pairs = len(node.shelf.known) * len(node.directory.nodes())
            if news.everything or time.monotonic() - looked > EVERYTHING * max(1.0, pairs / PAIRS):
                looked = time.monotonic()
                node.counted.clear()
                node.digests.clear()
                node.ads.clear()
                look_soon(node, list(node.shelf.known))
            else:
                look_soon(node, news.sets | node.rejections.lapsed())
                await look_at_moved(node, news.nodes)
        except Exception as error:  # noqa: BLE001 - whatever it is, replicas are looked after again in the next round
            node.counters.background_failed("drive", error)


def look_soon(node: Node, set_ids: Iterable[str], only: frozenset[str] | None = None) -> None:
    """Look after those of these sets that are driven from here; as regards `only` these nodes."""
    for set_id in set_ids:
        known = node.shelf.known.get(set_id)
        if known is None or not drives(node, known):
            continue
        if f"drive {set_id}" in node.flights:
            node.restless.add(set_id)
        else:
            node.fly(f"drive {set_id}", partial(_look, node, set_id, only))


async def look_at_moved(node: Node, moved: frozenset[str]) -> None:
    """Offer these nodes, which came, went or changed, what they are to have, and make up for copies lost with them."""
    for set_id, nodes in (await agreeing(node, moved - {node.id})).items():
        everywhere = node.shelf.known[set_id].record.replicas == ALL
        look_soon(node, [set_id], frozenset(nodes) if everywhere else None)


async def agreeing(node: Node, moved: frozenset[str]) -> dict[str, set[str]]:
    """Return by set id which of these nodes agree with a set driven from here that may want another copy.

    Only what changed is matched again: no set with any other node, and none with a node that holds it, has just
    refused it, or may not hold it; nor a set that has all its copies. Sets that lost one are looked after anew.
    """
    entries = [entry for entry in node.directory.nodes() if entry.record.id in moved]
    pairs: list[tuple[Known, NodeEntry]] = []
    for known in list(node.shelf.known.values()) if moved else ():
        if not drives(node, known):
            node.counted.pop(known.record.id, None)
        elif _lost_a_copy(node, known):
            look_soon(node, [known.record.id])
        elif not _has_enough(node, known):
            pairs += [(known, entry) for entry in entries if _may_be_asked(node, known, entry)]
    agreed: dict[str, set[str]] = {}
    for (known, entry), verdict in zip(pairs, await consent.of_pairs(node, pairs), strict=True):
        if verdict.matches:
            agreed.setdefault(known.record.id, set()).add(entry.record.id)
    return agreed


async def _look(node: Node, set_id: str, only: frozenset[str] | None) -> None:
    async with node.driving:
        known = _driven(node, set_id)
        if known is None:
            return
        try:
            await look_after(node, known, only)
        except CachedError as error:
            node.counters.note("drive.failed", error.message, set=set_id[:8])
    if set_id in node.restless:
        node.restless.discard(set_id)
        node.stirred.set(set_id)


def _driven(node: Node, set_id: str) -> Known | None:
    """Return a set as it is now, if this node answers for its replicas; None where not, or while it drains."""
    known = node.shelf.known.get(set_id)
    return known if known is not None and not node.draining and drives(node, known) else None


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
    if record.originator == node.id:
        return True
    holders = [
        entry.node.record.id
        for entry in node.holders(record.id)
        if entry.node.alive and entry.holding.state == "COMMITTED"
    ]
    return placement.driver(record.id, record.originator, holders) == node.id


async def look_after(node: Node, known: Known, only: frozenset[str] | None = None) -> None:
    """Offer a set to the nodes that should have it next, all at once; as regards `only` these."""
    node.counted[known.record.id] = 0 if known.record.replicas == ALL else _count(node, known)
    if _has_enough(node, known):
        return
    by_id = {entry.record.id: entry for entry in node.directory.nodes()}
    candidates = await _candidates(
        node, known, [entry for entry in by_id.values() if only is None or entry.record.id in only]
    )
    chosen = placement.choose(known.record, candidates)
    _be_ready(node, known, len(chosen))
    if chosen:
        proposed = await offer.make(node, known, receivers=len(chosen))
        await _propose_to_all(node, known, [by_id[node_id] for node_id in chosen], proposed)


def _has_enough(node: Node, known: Known) -> bool:
    """Tell whether a set has all the copies that its owner wants, so that nobody need be asked."""
    return known.record.replicas != ALL and _count(node, known) >= known.record.replicas


def _lost_a_copy(node: Node, known: Known) -> bool:
    """Tell whether fewer copies count now than when the set was last looked after, or that was never done from here."""
    before = node.counted.get(known.record.id)
    return before is None or (known.record.replicas != ALL and _count(node, known) < before)


def _count(node: Node, known: Known) -> int:
    """Return how many copies count for a set besides the originator's: those that other nodes tell of, or promised."""
    told = [entry for entry in node.holders(known.record.id) if entry.node.record.id != node.id]
    copies = [_candidate(known, entry.node, entry.holding, matches=False) for entry in told]
    count = placement.count(known.record, copies)
    if known.record.id not in node.promised:
        return count
    return count + len(_promised(node, known) - {entry.node.record.id for entry in told})


def _promised(node: Node, known: Known) -> frozenset[str]:
    """Return the nodes that have accepted a set from here so lately that they may not have told of it yet."""
    now, nodes = time.monotonic(), node.promised.get(known.record.id, {})
    for node_id in [node_id for node_id, until in nodes.items() if until < now]:
        del nodes[node_id]
    if not nodes:
        node.promised.pop(known.record.id, None)
    return frozenset(nodes)


def _may_be_asked(node: Node, known: Known, entry: NodeEntry) -> bool:
    """Tell whether a node could be offered a set if both sides agree."""
    record = known.record
    return (
        entry.alive
        and entry.record.id not in node.directory.holding(record.id)
        and (record.id not in node.promised or entry.record.id not in _promised(node, known))
        and trusted_with(entry, known)
        and not node.rejections.stands(record.id, entry.record.id, ads_digest(node, known, entry))
    )


async def _candidates(node: Node, known: Known, entries: Iterable[NodeEntry]) -> list[placement.Candidate]:
    record = known.record
    promised = Holding(set_id=record.id, revision=record.revision, content=record.content, state="REQUESTED")
    holdings = dict.fromkeys(_promised(node, known), promised)
    holdings |= {entry.node.record.id: entry.holding for entry in node.holders(record.id)}
    others = [entry for entry in entries if entry.record.id != node.id]
    asked = [
        entry for entry in others if entry.record.id not in holdings and _may_be_asked(node, known, entry)
    ]
    verdicts = await consent.verdicts(node, known, [entry.record.ad for entry in asked])
    matching = {entry.record.id for entry, verdict in zip(asked, verdicts, strict=True) if verdict.matches}
    return [
        _candidate(known, entry, holdings.get(entry.record.id), matches=entry.record.id in matching)
        for entry in others
    ]


def _candidate(
    known: Known, entry: NodeEntry, holding: Holding | None, *, matches: bool
) -> placement.Candidate:
    return placement.Candidate(
        node_id=entry.record.id,
        host=entry.record.host,
        alive=entry.alive,
        matches=matches,
        state=holding.state if holding is not None else "",
        durable=holding is None or not holding.volatile,
        originator=entry.record.id == known.record.originator,
    )


def _be_ready(node: Node, known: Known, receivers: int) -> None:
    """Have a set that goes to so many nodes by a swarm in there when the first of them asks, not only then."""
    if seeding.is_shared(node, known, receivers):
        node.fly(f"seed {known.record.content}", partial(seeding.ready, node, known, receivers))


async def offer_to(node: Node, known: Known, entry: NodeEntry, *, requested: bool = False) -> offer.Answer:
    """Offer a set to one node and remember what it says. Never raises for what the other side does."""
    _be_ready(node, known, 1)
    return await _propose(node, known, entry, await offer.make(node, known, requested=requested))


async def _propose_to_all(node: Node, known: Known, entries: list[NodeEntry], proposed: offer.Offer) -> None:
    """Offer a set to nodes at once, or to a few first, who then hand its metadata on to the others.

    Where each gets a stream of its own, a few are asked at a time: who has accepted soon has it, while the next ones
    consider it. Were all asked at once, all would wait for each other to the end.
    """
    first = handed_on.first(len(proposed.metadata), len(entries))
    asked_now, fetching = {entry.record.id for entry in entries}, sources.fetching(node, known.record.id)
    shared = seeding.is_shared(node, known, len(fetching | asked_now))
    # who comes to those who have begun is not named to them, and meets them as one who comes late
    near = mesh.all_fellows(asked_now) if shared and fetching <= asked_now else {}
    width = len(entries) if shared else max(AT_ONCE, math.isqrt(len(entries)))

    async def propose(entry: NodeEntry) -> offer.Answer:
        now = _driven(node, known.record.id)
        if now is None or now.record.revision != known.record.revision:  # then it is looked after anew
            return offer.Answer(answer="REJECTED", reason=f"{known.record.name} has changed meanwhile")
        neighbours = tuple(sorted(near.get(entry.record.id, ())))
        return await _propose(node, known, entry, msgspec.structs.replace(proposed, neighbours=neighbours))

    async with asyncio.TaskGroup() as group:

        def begin(entry: NodeEntry) -> asyncio.Task[offer.Answer]:
            return group.create_task(propose(entry))

        asked = await begin_each(entries[:first], begin, width=width, patience=PATIENCE)
        if entries[first:]:
            answered, _ = await asyncio.wait(asked, timeout=handed_on.ANSWER)
            described = tuple(
                entry.record.id
                for entry, answer in zip(entries, asked, strict=False)
                if answer in answered and answer.result().answer == "OK"
            )
            if described:
                proposed = msgspec.structs.replace(proposed, metadata=b"", described=described)
        await begin_each(entries[first:], begin, width=width, patience=PATIENCE)


async def _propose(node: Node, known: Known, entry: NodeEntry, proposed: offer.Offer) -> offer.Answer:
    record, peer = known.record, entry.record.id
    node.consents.give(peer, record.content)
    faults.point(DRIVE_OFFERED)
    try:
        answer = msgspec.convert(
            await node.link.call(peer, "offer.consider", msgspec.to_builtins(proposed), 15.0), offer.Answer
        )
    except (CachedError, msgspec.ValidationError) as error:
        reason = getattr(error, "message", "it answered nonsense")
        digest = ads_digest(node, known, entry)
        node.rejections.add(record.id, peer, f"not reached: {reason}", digest, seconds=BUSY, failed=True)
        return offer.Answer(answer="REJECTED", reason=reason, code="peer_unreachable")
    if proposed.content:
        node.direct_server.gave(record.content, len(proposed.content))
    if answer.answer == "REJECTED":
        node.counters.note("offer.rejected", answer.reason, set=record.id[:8], node=entry.record.name)
        lasts = BUSY if answer.code == Busy.code else LASTS
        failed = answer.code == CachedError.code  # it had accepted before
        digest = ads_digest(node, known, entry)
        node.rejections.add(record.id, peer, answer.reason, digest, seconds=lasts, failed=failed)
    else:
        node.counters.add("offer.accepted")
        node.rejections.accepted(record.id, peer)
        node.promised.setdefault(record.id, {})[peer] = time.monotonic() + PROMISED
    return answer


def ads_digest(node: Node, known: Known, entry: NodeEntry) -> str:
    """Return what a refusal is bound to: this revision of the set and this ad of the node."""
    said, digest = node.digests.get(entry.record.id, ({}, ""))
    if said is not entry.record.ad:
        ad: Ad = {key: value for key, value in entry.record.ad.items() if key != "Reachable"}
        digest = hashlib.sha256(msgspec.json.encode(ad, order="sorted")).hexdigest()
        node.digests[entry.record.id] = (entry.record.ad, digest)
    return f"{known.record.revision} {digest}"

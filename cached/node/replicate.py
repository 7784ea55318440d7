"""Replicate: what an owner may ask beyond waiting: more or fewer copies, a copy on a certain node, and to be told
when it is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from cached import wire
from cached.errors import CachedError, NoSource, NotFound, Refused, RequirementsRefused
from cached.node import announce, book, consent, drive, match, options, watching
from cached.node.access import check_manage, resolve
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.rejections import Rejection
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.node.views import NOTHING, replica_views
from cached.peers.records import Holding, NodeEntry, Peer
from cached.replication import placement
from cached.sets.names import SetRef
from cached.sets.set import ALL

Report = Callable[[wire.Progress], None]

#: Seconds between two looks while somebody waits, at most.
LOOK = 0.25
#: Between the first two glances whether there is anything new to look at; the pause grows by a fiftieth of what was
#: waited.
SOON = 0.02


async def replicate(
    node: Node,
    caller: Caller,
    ref: SetRef,
    replicas: int | None,
    to: Sequence[str],
    wait: bool,
    timeout: float,
    progress: Report | None,
) -> wire.ReplicateReply:
    """Set the number of replicas, offer the set to named nodes, and wait for it all when `wait`.

    Raises `NotFound` for an unknown node or set, `Forbidden`, and `RequirementsRefused` when a named node refuses.
    """
    known = resolve(node.shelf, caller, ref)
    check_manage(caller, known, "replicate")
    targets = [_node(node, name) for name in to]
    if replicas is not None and replicas != known.record.replicas:
        async with node.locks(f"record {known.record.id}"):
            known = book.revise(
                node, node.shelf.known[known.record.id], replicas=options.replica_count(replicas)
            )
            await book.keep(node, known)
        # Who looks after the set offers it now; another node that does so is to hear of it.
        announce.publish(node, known.record.id, hurried=not drive.drives(node, known))
    for target in targets:
        await _send(node, known, target)
    node.stirred.set(known.record.id)
    # Who names nodes and no number waits for those nodes alone.
    named = frozenset(target.record.id for target in targets) if replicas is None else frozenset()
    if not wait:
        return await _reply(node, known, named)
    return await _wait(node, known, named, time.monotonic() + timeout, progress)


def _node(node: Node, name: str) -> NodeEntry:
    found = node.directory.node(name)
    if found is None:
        raise NotFound(f"no node {name} is known here", hint="cached nodes lists them")
    return found


async def _send(node: Node, known: Known, target: NodeEntry) -> None:
    """Have some holder offer the set to one node, as its owner wishes."""
    row = node.shelf.replicas.get(known.record.id)
    if row is not None and row.state == "COMMITTED":
        if target.record.id != node.id:
            await push(node, known, target)
        return
    body = {"set": known.record.id, "to": target.record.id}
    failure: CachedError = NoSource(f"no live node holds {known.record.name}")
    for entry in node.holders(known.record.id):
        if (
            entry.node.alive
            and entry.holding.state in ("COMMITTED", "EXPIRED")
            and entry.node.record.id != node.id
        ):
            try:
                await node.link.call(entry.node.record.id, "offer.push", body, 20.0)
            except Refused:
                raise
            except CachedError as error:
                failure = error
            else:
                return
    raise failure


async def push(node: Node, known: Known, target: NodeEntry) -> None:
    """Offer a set held here to one node at its owner's wish. Raises `RequirementsRefused` with the reason."""
    if not trusted_with(target, known):
        raise RequirementsRefused(
            f"node {target.record.name} does not speak for the domain of {known.record.owner}"
        )
    verdict = (await consent.verdicts(node, known, [target.record.ad], requested=True))[0]
    if not verdict.matches:
        raise RequirementsRefused(
            f"{target.record.name}: {'; '.join(verdict.reasons)}", reasons=list(verdict.reasons)
        )
    answer = await drive.offer_to(node, known, target, requested=True)
    if answer.answer == "REJECTED":
        refusal = CachedError.from_wire(
            {"code": answer.code, "message": f"{target.record.name}: {answer.reason}"}
        )
        raise refusal


async def serve_push(node: Node, peer: Peer, set_id: str, to: str) -> None:
    """Answer a peer whose user wants a set held here to be offered to a third node."""
    known, target = node.shelf.known.get(set_id), node.directory.node(to)
    if known is None or target is None or set_id not in node.shelf.replicas:
        raise NotFound("this node does not hold that set, or does not know that node")
    consent.check_speaks(peer.domains, known.record.owner, f"node {peer.node_id[:8]}")
    await push(node, known, target)


async def _wait(
    node: Node, known: Known, named: frozenset[str], until: float, progress: Report | None
) -> wire.ReplicateReply:
    if progress is None:  # nobody watches, and nobody is asked
        return await _settled(
            node, known, named, until, lambda _: None, watching.Sight(node, known.record.id)
        )
    async with watching.watched(node, known.record.id) as sight:
        return await _settled(node, known, named, until, progress, sight)


async def _settled(
    node: Node,
    known: Known,
    named: frozenset[str],
    until: float,
    progress: Report,
    sight: watching.Sight,
) -> wire.ReplicateReply:
    began = time.monotonic()
    while True:
        looked, news = time.monotonic(), _news(node, known)
        known = node.shelf.known.get(known.record.id, known)
        reply = await _reply(node, known, named, sight.told)
        progress(_report(known, reply))
        settled = all(item.state not in ("REQUESTED", "TRANSFERRING") for item in reply.items)
        refused = sum(item.state in ("REJECTED", "FAILED") for item in reply.items)
        if reply.complete or (settled and reply.have + refused >= reply.wanted) or time.monotonic() > until:
            return reply
        pause = 0.0
        while not pause or (_news(node, known) == news and time.monotonic() + pause < looked + LOOK):
            pause = min(LOOK, SOON + (time.monotonic() - began) / 50)
            await asyncio.sleep(pause)


def _news(node: Node, known: Known) -> object:
    """Return a value that is another as soon as a look at a set's replicas may show something else."""
    set_id = known.record.id
    now = node.shelf.known.get(set_id, known)
    return node.directory.mark(set_id), now.record.revision, node.rejections.of(set_id)


async def _reply(
    node: Node, known: Known, named: frozenset[str], told: Mapping[str, Holding] = NOTHING
) -> wire.ReplicateReply:
    items = replica_views(node, known, told)
    refusals = await _refusals(node, known)
    names = {entry.record.id: entry.record for entry in node.directory.nodes()}
    listed = {item.node_id for item in items}
    for node_id, refusal in refusals.items():
        if node_id in names and node_id not in listed:
            record = names[node_id]
            items.append(
                wire.ReplicaView(
                    node=record.name,
                    host=record.host,
                    state="FAILED" if refusal.failed else "REJECTED",
                    tier=known.record.tier,
                    bytes_present=0,
                    reason=refusal.reason,
                    node_id=node_id,
                )
            )
    there = {item.node_id for item in items if item.state == "COMMITTED"}
    there -= {known.record.originator} - named
    wanted, unmatched = (named, []) if named else await _wanted(node, known, set(refusals))
    count = len(wanted) if known.record.replicas == ALL or named else min(known.record.replicas, len(wanted))
    have = len(there & wanted)
    enough = known.record.replicas != ALL and count == known.record.replicas
    return wire.ReplicateReply(
        items=items,
        complete=have >= count,
        wanted=count,
        have=have,
        unmatched=[] if enough else unmatched,
    )


async def _wanted(
    node: Node, known: Known, refusing: set[str]
) -> tuple[frozenset[str], list[wire.MatchView]]:
    """Return the live nodes that match, besides the originator: those that refused are among them. And all others."""
    others = [
        entry
        for entry in node.directory.nodes()
        if entry.alive and entry.record.id != known.record.originator
    ]
    verdicts = await consent.verdicts(node, known, [entry.record.ad for entry in others])
    holders = {entry.node.record.id for entry in node.holders(known.record.id)}
    wanted, unmatched = set(), []
    for entry, verdict in zip(others, verdicts, strict=True):
        found = match.view(known, entry, verdict)
        met = entry.record.id in holders or entry.record.id in refusing
        if found.matches or (met and trusted_with(entry, known)):
            wanted.add(entry.record.id)
        else:
            unmatched.append(found)
    return frozenset(wanted), unmatched


async def _refusals(node: Node, known: Known) -> dict[str, Rejection]:
    """Return what the driving node has been told by those who refused."""
    holders = [
        entry.node.record.id
        for entry in node.holders(known.record.id)
        if entry.node.alive and entry.holding.state == "COMMITTED"
    ]
    driver = placement.driver(known.record.id, known.record.originator, holders)
    if driver in (None, "", node.id):
        return node.rejections.of(known.record.id)
    try:
        answer = await node.link.call(driver, "drive.refusals", {"set": known.record.id}, 3.0)
    except CachedError:
        return {}
    failed = answer.get("failed", ())
    return {
        str(key): Rejection(str(value), "", 0.0, failed=key in failed)
        for key, value in answer.get("refusals", {}).items()
    }


def _report(known: Known, reply: wire.ReplicateReply) -> wire.Progress:
    """Return the progress of all nodes together, and of each."""
    nodes = [
        wire.NodeProgress(
            node=item.node,
            host=item.host,
            state=item.state,
            bytes_present=item.bytes_present,
            bytes_wanted=known.record.bytes,
            reason=item.reason,
            bytes_per_second=item.bytes_per_second,
            seconds_left=item.seconds_left,
        )
        for item in reply.items
        if item.node_id != known.record.originator
    ]
    return wire.Progress(
        bytes_present=sum(one.bytes_present for one in nodes if one.state not in ("REJECTED", "FAILED")),
        bytes_wanted=known.record.bytes * max(reply.wanted, 1),
        state="done" if reply.complete else "replicating",
        nodes=nodes,
    )

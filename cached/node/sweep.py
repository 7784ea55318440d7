"""Sweep: what a node does by itself from time to time, and what it gives up when space is wanted."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from cached import faults
from cached.catalog.rows import ReplicaRow
from cached.errors import Busy, CachedError
from cached.leases import deadline, policy, reclaim
from cached.node import announce, create, memory, receive, retire, seeding, sharing
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.sets.set import Tier

SWEEP_RENEWED = faults.declare("sweep.renewed")
RECLAIM_CHOSEN = faults.declare("reclaim.chosen")

#: Seconds between two sweeps.
ROUND = 2.0
#: Sets without any holder are forgotten this long after their lease has ended, in seconds.
FORGET = 30 * 86_400
#: Seconds between two looks at what changes slowly.
LONG_ROUND = 30.0


async def run(node: Node) -> None:
    """Sweep until cancelled."""
    looked = 0.0
    while True:
        await asyncio.sleep(ROUND)
        try:
            await once(node)
            if time.monotonic() - looked > LONG_ROUND:
                looked = time.monotonic()
                await slowly(node)
        except CachedError as error:
            node.counters.note("sweep.failed", error.message)
        except Exception as error:  # noqa: BLE001 - grants are renewed again in two seconds, whatever it was
            node.counters.background_failed("sweep", error)


async def once(node: Node) -> None:
    """Renew grants, let go of dead readers, finish deletions, forget what is over, and tell the others."""
    node.pins.sweep()
    node.manifests.tidy(time.monotonic())
    await renew(node)
    for row in list(node.shelf.replicas.values()):
        if row.state == "GOING":
            retire.reap_soon(node, row.content)
    await memory.tidy(node)
    node.fly("empty trash", lambda: retire.empty_trash(node))
    receive.retry(node)
    fetching = {flight.content for flight in node.transfers.values()}
    node.space.packs = await asyncio.to_thread(seeding.packs, node.config.store.disk / "packs", fetching)
    announce.publish(node)


async def slowly(node: Node) -> None:
    """Write down the time, forget what is over, and let rest what nobody asks for."""
    await node.catalog.beat()
    await create.give_up_idle(node, time.monotonic())
    await forget(node)
    await seeding.rest(node, time.monotonic())


async def renew(node: Node) -> None:
    """Renew every grant that is half over while its set's lease lasts."""
    due = [row.set_id for row in node.shelf.replicas.values() if _renewal(node, row) is not None]
    if due and not node.draining:
        await node.shelf.keep(Changes(edits=tuple((set_id, partial(_renewed, node)) for set_id in due)))
        faults.point(SWEEP_RENEWED)
        node.counters.add("grants_renewed", len(due))


def _renewal(node: Node, row: ReplicaRow) -> int | None:
    """Return for how long a grant is to be renewed now, if at all."""
    known = node.shelf.known[row.set_id]
    if row.state != "COMMITTED" or known.record.status != "live":
        return None
    seconds = policy.renewal_due(
        node.left(row.grant), row.granted_seconds, node.left(known.lease), node.config.policy.max_lease
    )
    return seconds if seconds is not None and seconds > node.left(row.grant) + 1 else None


def _renewed(node: Node, row: ReplicaRow) -> ReplicaRow:
    seconds = _renewal(node, row)
    if seconds is None:  # extended, or given up, at this very moment
        return row
    return node.longer(row, seconds)


async def forget(node: Node) -> None:
    """Drop the records of sets that are over: tombstones past their time, and sets that nobody holds long after
    their lease.
    """
    now, high_water = node.now(), node.catalog.high_water

    def over(known: Known) -> bool:
        if known.record.id in node.shelf.replicas:
            return False
        extra = 0 if known.record.status == "deleted" else FORGET
        return deadline.seconds_left(known.lease, now, high_water) < -extra

    gone = [known.record.id for known in node.shelf.known.values() if over(known)]
    if gone:
        await node.shelf.keep(Changes(drop_sets=tuple(gone)))
    for set_id in gone:
        node.rejections.drop(set_id)
        node.last_read.pop(set_id, None)


async def make_room(node: Node, tier: Tier, wanted: int) -> None:
    """Reclaim expired, unpinned replicas of a tier, cheapest to lose first, when they make enough room.

    Where the partition is what is short, copies of objects go before: they are promised to nobody.
    """
    if node.space.above_floor(tier) <= node.space.free(tier):
        wanted -= await node.objects.tiers.give_way(tier, wanted)
        if wanted <= 0:
            return
    candidates, shared = await sharing.appraise(node, tier, _candidates(node, tier))
    chosen = reclaim.choose(candidates, wanted, shared)
    faults.point(RECLAIM_CHOSEN)
    for candidate in chosen:
        try:
            await _reclaim(node, tier, candidate)
        except Busy as extended:
            node.counters.note("reclaim.spared", extended.message, content=candidate.content[:8])
            continue
        node.counters.note(
            "reclaimed", "expired replicas made room", content=candidate.content[:8], bytes=candidate.bytes
        )


async def _reclaim(node: Node, tier: Tier, candidate: reclaim.Candidate) -> None:
    rows = [node.shelf.replicas[one] for one in candidate.set_ids if one in node.shelf.replicas]
    if any(node.left(row.grant) > 0 for row in rows):
        raise Busy("its lease has just been extended")
    if tier == "memory" and all(row.tier == "disk" for row in rows):
        await memory.evict(node, candidate.content)  # the durable copy stays
        return
    for row in rows:
        await retire.give_up(node, row.set_id, expired=row.grant)
    await retire.reap(node, candidate.content)


def _candidates(node: Node, tier: Tier) -> list[reclaim.Candidate]:
    found = []
    monotonic = time.monotonic()
    for (content, its_tier), row in node.shelf.contents.items():
        if its_tier != tier or row.state != "STABLE":
            continue
        set_ids = node.shelf.sets_of_content(content)
        replicas = [node.shelf.replicas[set_id] for set_id in set_ids]
        if not replicas or any(replica.state == "TRANSFERRING" for replica in replicas):
            continue
        others = sum(
            entry.node.alive
            and entry.holding.state == "COMMITTED"
            and not entry.holding.volatile
            and entry.node.record.id != node.id
            for set_id in set_ids
            for entry in node.holders(set_id)
        )
        last_read = max(
            (node.last_read.get(set_id, float("-inf")) for set_id in set_ids), default=float("-inf")
        )
        found.append(
            reclaim.Candidate(
                content=content,
                set_ids=tuple(sorted(set_ids)),
                bytes=row.physical,
                expired_seconds=min(node.overdue(replica.grant) for replica in replicas),
                pinned=node.pins.pinned(content) or content in node.lent,
                other_holders=others,
                fetch_cost=float(row.bytes),
                last_read_seconds=monotonic - last_read,
            )
        )
    return found

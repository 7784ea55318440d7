"""Ways: how the bytes of an accepted set may come here, best first: from those who have them, else from the origin."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cached.errors import CachedError
from cached.node import kept, origins, pool, sources
from cached.node.flight import Flight
from cached.node.meeting import Meeting
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.origin.places import Places
from cached.replication import method
from cached.replication.transfer import FetchJob

#: Name of the way that is no replication method: the objects behind the set.
ORIGIN = "origin"
#: Seconds between two looks whether others want what this node is getting alone.
LOOK = 0.25


def ordered(node: Node, flight: Flight, holders: Meeting, places: Places | None) -> list[str]:
    """Return the ways to try, best first. What nobody has vouched for must come from the origin."""
    if flight.set_id in node.unproven:
        return [ORIGIN] if places is not None else []
    named = _methods(node, flight, holders)
    if places is None:
        return named
    return [*named, ORIGIN] if _someone(holders) else [ORIGIN, *named]


def several(node: Node, flight: Flight, holders: Meeting, places: Places | None) -> bool:
    """Tell whether the bytes can be had just now in more than one way."""
    record = node.shelf.known[flight.set_id].record
    allowed = [name for name in node.config.replication.methods if name in record.methods]
    return sum(holders.offer(name) for name in allowed) + (places is not None) > 1


def _someone(holders: Meeting) -> bool:
    """Tell whether a node that has all of it has agreed to give it."""
    return any(holder.complete for holder, *_ in holders.agreed.values())


async def places_of(node: Node, flight: Flight, metadata: Metadata, holders: Meeting) -> Places | None:
    """Return where this node may read the set's files: as its metadata say, else, if need be, as the origin says."""
    known = node.shelf.known[flight.set_id]
    found = await origins.usable(node, known.record.owner, metadata.places, metadata.manifest)
    if found is not None or not known.record.origin or _someone(holders):
        return found
    try:
        told = await kept.metadata_of(node, known)
    except CachedError as error:
        node.counters.note("origin.map_unusable", error.message, set=flight.set_id[:8])
        return None
    return await origins.usable(node, known.record.owner, told.places, metadata.manifest)


async def go(
    node: Node,
    name: str,
    job: FetchJob,
    holders: Meeting,
    places: Places | None,
    *,
    fallback: bool = False,
) -> None:
    """Bring the bytes by one way; a `fallback` from another is kept to. Raises what keeps them from coming."""
    known = node.shelf.known[holders.set_id]
    if not job.manifest.total_bytes:
        return
    if name == ORIGIN and places is not None:
        await pool.draw(node, known, job, places, holders)
    elif name == "bittorrent" or not await _alone(node, job, holders, fallback=fallback):
        flight = node.transfers.get(holders.set_id)
        if flight is not None:
            flight.method = "bittorrent"
        now = max(
            job.receivers, sources.receivers(node, holders.set_id)
        )  # those who came meanwhile share the source
        await node.swarm.fetch(replace(job, receivers=now), holders.swarm, holders.source())


async def _alone(node: Node, job: FetchJob, holders: Meeting, *, fallback: bool) -> bool:
    """Bring the bytes by one stream; end it when others come for them too, and return False: together they spare
    whoever gives, and what has come is kept. A few bytes are never worth that.
    """
    fetching = node.direct.fetch(job, holders.direct, node.sources.get(holders.set_id, ""))
    if not method.worth_sharing(job.manifest.total_bytes, others=1):
        await fetching
        return True
    stream = asyncio.ensure_future(fetching)
    try:
        while not stream.done():
            await asyncio.wait({stream}, timeout=LOOK)
            if not fallback and not stream.done() and _joined(node, job, holders):
                return False
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    stream.result()
    return True


def _joined(node: Node, job: FetchJob, holders: Meeting) -> bool:
    """Tell whether others want what this node is getting alone, and enough of it is left to share."""
    record = node.shelf.known[holders.set_id].record
    allowed = "bittorrent" in record.methods and "bittorrent" in node.config.replication.methods
    left = job.progress.bytes_wanted - job.progress.bytes_present
    others = sources.receivers(node, holders.set_id) - 1
    return allowed and method.worth_sharing(left, others) and holders.offer("bittorrent")


def believed(node: Node, set_id: str) -> bool:
    """Tell whether bytes that are here under another set may count as this set's.

    Anybody can write a document that names the content of somebody else's set. A set that is kept in the origin is
    believed once a node has received all of it, from there or from its creator.
    """
    known = node.shelf.known[set_id]
    return set_id not in node.unproven and (not known.record.origin or kept.held(node, known))


def _methods(node: Node, flight: Flight, holders: Meeting) -> list[str]:
    """Return the methods to try, best first; those that a holder offers come before those that none does just now."""
    record = node.shelf.known[flight.set_id].record
    allowed = [name for name in node.config.replication.methods if name in record.methods]
    offered = [name for name in allowed if holders.offer(name)]
    best = method.choose(
        record.methods,
        offered or allowed,
        node.config.replication.methods,
        record.bytes - flight.linked.logical,
        max(flight.receivers, sources.receivers(node, flight.set_id)),
    )
    return sorted(offered or allowed, key=lambda name: name != best)

"""Locate: where the data of some sets lies, as a ranking of nodes for a scheduler and its job; answered from this
node's directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from cached import wire
from cached.errors import BadExpression, UsageError
from cached.matching import jobads
from cached.matching.ads import Ad
from cached.node import announce, consent
from cached.node.access import resolve
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.records import HolderEntry, NodeEntry
from cached.scheduling import locality
from cached.sets.names import parse_ref

#: States by how far a replica is: of those of several sets on a node, the first sums them up.
_ORDER = ("GOING", "REJECTED", "REQUESTED", "TRANSFERRING", "EXPIRED", "COMMITTED")
#: States of replicas that have all bytes.
WHOLE = ("COMMITTED", "EXPIRED")


async def locate(node: Node, caller: Caller, names: Sequence[str], job_ad: str | None) -> wire.LocateReply:
    """Rank the live nodes by how near they are to having all the sets.

    A node matches when it holds all the sets or may be asked to, and the job's requirements, if there is a job, hold
    there. Raises `NotFound`, `AmbiguousName`, `BadExpression`, `UsageError`.
    """
    if not names:
        raise UsageError("no set is named", hint="cached locate NAME...")
    sets = [resolve(node.shelf, caller, parse_ref(name)) for name in names]
    job = await _job(node, job_ad) if job_ad is not None else None
    entries = [entry for entry in node.directory.nodes() if entry.alive]
    agreed = await _agreed(node, sets, entries)
    runs = await _runs(node, job, entries) if job is not None else {entry.record.id for entry in entries}
    available = {known.record.id: _available(node, known) for known in sets}
    scarce = {set_id for set_id, how in available.items() if how in ("partial", "none")}
    candidates = [
        _candidate(node, sets, entry, scarce, agreed=entry.record.id in agreed, runs=entry.record.id in runs)
        for entry in entries
    ]
    return wire.LocateReply(
        items=[_view(found) for found in locality.rank(candidates)],
        directory_age_seconds=round(node.directory.age_seconds(), 3),
        sets=[
            wire.LocatedSet(name=known.record.name, id=known.record.id, available=available[known.record.id])
            for known in sets
        ],
    )


def _available(node: Node, known: Known) -> wire.Availability:
    """Return where all bytes of a set can be had."""
    there = [entry.holding for entry in node.holders(known.record.id) if entry.node.alive]
    if any(holding.state in WHOLE for holding in there):
        return "whole"
    if known.record.origin:
        return "origin"
    return "partial" if any(holding.bytes_present for holding in there) else "none"


async def _job(node: Node, text: str) -> Ad:
    """Read the job's ad. What ClassAd itself cannot read is left out, unless the requirements depend on it."""
    job = jobads.read(text)
    broken = set()
    for name, expression in jobads.texts(job):
        try:
            await node.matchmaker.check(expression)
        except BadExpression as error:
            if name.lower() in job.needed:
                raise BadExpression(f"job ad, {name}: {error.message}", hint=error.hint) from error
            broken.add(name)
    return jobads.without(job, broken).ad


async def _runs(node: Node, job: Ad, entries: Sequence[NodeEntry]) -> set[str]:
    """Return the ids of the nodes where the job's requirements hold; whether a node likes the job is not asked."""
    ads = [announce.ad(node) if entry.record.id == node.id else dict(entry.record.ad) for entry in entries]
    verdicts = await node.matchmaker.match([(job, ad) for ad in ads])
    return {entry.record.id for entry, verdict in zip(entries, verdicts, strict=True) if verdict.set_side}


async def _agreed(node: Node, sets: Sequence[Known], entries: Sequence[NodeEntry]) -> set[str]:
    """Return the ids of the nodes that match every one of the sets."""
    agreed = {entry.record.id for entry in entries}
    for known in sets:
        verdicts = await consent.verdicts(node, known, [entry.record.ad for entry in entries], requested=True)
        agreed &= {
            entry.record.id for entry, verdict in zip(entries, verdicts, strict=True) if verdict.matches
        }
    return agreed


def _candidate(
    node: Node, sets: Sequence[Known], entry: NodeEntry, scarce: set[str], *, agreed: bool, runs: bool
) -> locality.Candidate:
    held = [_holding(node, known, entry) for known in sets]
    there = [holder.holding for holder in held if holder is not None]
    leases = [holding.lease_seconds_left for holding in there]
    whole = {holding.set_id for holding in there if holding.state in WHOLE}
    return locality.Candidate(
        node=entry.record.name,
        host=entry.record.host,
        state=min((holding.state for holding in there), key=_ORDER.index, default=""),
        bytes_present=sum(holding.bytes_present for holding in there),
        bytes_wanted=sum(known.record.bytes for known in sets),
        lease_seconds_left=min(leases) if len(leases) == len(sets) else None,
        free_bytes=entry.record.free_bytes,
        matches=runs and (agreed or len(there) == len(sets)),
        obtainable=scarce <= whole,
    )


def _holding(node: Node, known: Known, entry: NodeEntry) -> HolderEntry | None:
    for holder in node.holders(known.record.id):
        if holder.node.record.id == entry.record.id:
            return holder
    return None


def _view(found: locality.Ranked) -> wire.LocateView:
    one = found.candidate
    return wire.LocateView(
        node=one.node,
        host=one.host,
        state=one.state or "ABSENT",
        bytes_present=one.bytes_present,
        bytes_wanted=one.bytes_wanted,
        lease_seconds_left=None if one.lease_seconds_left is None else round(one.lease_seconds_left, 3),
        free_bytes=one.free_bytes,
        matches=one.matches,
        estimate_seconds=None if found.estimate_seconds is None else round(found.estimate_seconds, 3),
    )

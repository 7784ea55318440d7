"""Match: for each node, whether it and the set agree, and if not, which side refuses and why."""

from __future__ import annotations

from cached import wire
from cached.matching.verdict import Verdict
from cached.node import announce, consent
from cached.node.access import resolve
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.shelf import Known
from cached.node.trust import trusted_with
from cached.peers.records import NodeEntry
from cached.sets.names import SetRef


async def match(node: Node, caller: Caller, ref: SetRef) -> list[wire.MatchView]:
    """Match a set with every live node, this one first. Raises `NotFound` or `AmbiguousName`."""
    known = resolve(node.shelf, caller, ref)
    entries = [entry for entry in node.directory.nodes() if entry.alive]
    ads = [announce.ad(node) if entry.record.id == node.id else entry.record.ad for entry in entries]
    verdicts = await consent.verdicts(node, known, ads)
    return [view(known, entry, verdict) for entry, verdict in zip(entries, verdicts, strict=True)]


def view(known: Known, entry: NodeEntry, verdict: Verdict) -> wire.MatchView:
    """Return what matching a set with a node came to; a node that may not hold it does not match."""
    reasons = list(verdict.reasons)
    trusted = trusted_with(entry, known)
    if not trusted:
        reasons.append(f"the node's certificate does not speak for the domain of {known.record.owner}")
    return wire.MatchView(
        node=entry.record.name,
        matches=verdict.matches and trusted,
        set_side=verdict.set_side,
        node_side=verdict.node_side,
        reasons=reasons,
    )

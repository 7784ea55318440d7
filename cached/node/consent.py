"""Consent: both sides agree before a byte moves, and the sender remembers to whom it has agreed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cached.errors import Forbidden, RequirementsRefused
from cached.matching.ads import Ad, coarse, set_ad
from cached.matching.verdict import Verdict
from cached.node import announce
from cached.node.node import Node
from cached.node.shelf import Known
from cached.node.trust import domain_of, trusted_with
from cached.peers.records import NodeEntry, Peer


def ad_of(node: Node, known: Known, *, requested: bool = False) -> Ad:
    """Return the set's ad as of now; the same object as long as nothing in it changes."""
    left = coarse(node.left(known.lease))
    mark = (known.signed, left, requested, node.directory.mark(known.record.id))
    before, ad = node.ads.get(known.record.id, (None, {}))
    if before != mark:
        ad = _made(node, known, left, requested=requested)
        node.ads[known.record.id] = (mark, ad)
    return ad


def _made(node: Node, known: Known, left: int, *, requested: bool) -> Ad:
    holders = [entry for entry in node.holders(known.record.id) if entry.holding.state == "COMMITTED"]
    return set_ad(
        known.record,
        lease_seconds_left=left,
        requested=requested,
        replicas_count=sum(entry.node.alive for entry in holders),
        originator_here=known.record.originator == node.id,
    )


async def verdicts(node: Node, known: Known, ads: Iterable[Ad], *, requested: bool = False) -> list[Verdict]:
    """Match a set with each of these node ads."""
    mine = ad_of(node, known, requested=requested)
    return await node.matchmaker.match([(mine, ad) for ad in ads])


async def of_pairs(node: Node, pairs: Iterable[tuple[Known, NodeEntry]]) -> list[Verdict]:
    """Match sets with nodes, all in one go."""
    return await node.matchmaker.match([(ad_of(node, known), entry.record.ad) for known, entry in pairs])


async def own_verdict(node: Node, known: Known, *, requested: bool) -> Verdict:
    """Match a set with this node as it is right now, exact to the byte."""
    return (await verdicts(node, known, [announce.ad(node)], requested=requested))[0]


def check_speaks(domains: Collection[str], owner: str, who: str) -> None:
    """Raise `Forbidden` unless `who`, whose certificate names these domains, may act for the owner of a set."""
    if domain_of(owner) not in domains:
        raise Forbidden(
            f"{who} may not speak for {owner}",
            hint="the node's certificate names the user domains that it speaks for: cached cluster admit",
        )


def check_trusted(peer: Peer, known: Known) -> None:
    """Raise `Forbidden` unless a peer may have a set at all."""
    if not trusted_with(peer, known):
        raise Forbidden(f"node {peer.node_id[:8]} does not speak for the domain of {known.record.owner}")


async def agree(node: Node, peer: Peer, known: Known, ad: dict[str, object], *, requested: bool) -> None:
    """Give a peer this node's consent as sender, or raise `Forbidden` or `RequirementsRefused`."""
    check_trusted(peer, known)
    verdict = (await verdicts(node, known, [ad], requested=requested))[0]
    if not verdict.matches:
        raise RequirementsRefused("; ".join(verdict.reasons), reasons=list(verdict.reasons))
    node.consents.give(peer.node_id, known.record.content)

"""Trust: which nodes may hold a set at all, whatever they say of themselves."""

from __future__ import annotations

from cached.node.shelf import Known
from cached.peers.records import NodeEntry, Peer


def domain_of(owner: str) -> str:
    """Return the domain of an owner, empty for the cluster's own."""
    return owner.partition("@")[2]


def trusted_with(node: NodeEntry | Peer, known: Known) -> bool:
    """Tell whether a node may hold a set at all: private ones go only where the owner's domain is spoken for."""
    return known.record.share == "public" or domain_of(known.record.owner) in node.domains

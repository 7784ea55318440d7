"""Sources: what a node says to those that want a set from it, and when it may."""

from __future__ import annotations

from cached.catalog.rows import ReplicaRow
from cached.errors import Busy, NotFound
from cached.node import consent
from cached.node.joined import Joined
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.records import Peer

#: States of a replica that is on its way.
FETCHING = ("TRANSFERRING", "REQUESTED")


def encryption(node: Node) -> str:
    """Return how this node meets the others of a swarm: `tls` or `off`."""
    return "tls" if node.swarm.encrypted else "off"


def fetching(node: Node, set_id: str) -> set[str]:
    """Return the live nodes that tell that they are receiving a set."""
    return {
        entry.node.record.id
        for entry in node.holders(set_id)
        if entry.node.alive and entry.holding.state in FETCHING
    }


def receivers(node: Node, set_id: str) -> int:
    """Return how many nodes are receiving a set just now, this one included."""
    return max(1, len(fetching(node, set_id)))


async def join(node: Node, peer: Peer, set_id: str, ad: dict[str, object]) -> Joined:
    """Answer a node that introduces itself as a reader of a set held, or being fetched, here."""
    known, held = node.shelf.known.get(set_id), node.shelf.replicas.get(set_id)
    if known is None or held is None or held.state == "GOING":
        raise NotFound("this node does not hold that set")
    check_proven(node, known)
    if not node.consents.allowed(peer.node_id, known.record.content):
        await consent.agree(node, peer, known, ad, requested=True)
    return giving(node, held)


def giving(node: Node, held: ReplicaRow) -> Joined:
    """Return how this node gives the bytes of a set that it holds, or is fetching."""
    whole = (held.content, held.tier) not in node.shelf.withheld
    return Joined(
        complete=held.state == "COMMITTED",
        bittorrent_port=node.bittorrent_port,
        # A damaged copy is in no swarm; its files that are whole may still mend those of another.
        methods=tuple(name for name in node.config.replication.methods if whole or name == "direct"),
        encryption=encryption(node),
        bulk=True,
    )


def proven(node: Node, known: Known) -> bool:
    """Tell whether the bytes of the set's content that are here may be counted as the set's own.

    Knowing a content id is no right to the bytes: a set that names the content of another domain's private set gets
    it only once a node that speaks for the new set has shown that it has it. What is committed was shown.
    """
    set_id, content = known.record.id, known.record.content
    held = node.shelf.replicas.get(set_id)
    if held is not None and held.state == "COMMITTED":
        return True
    others = [node.shelf.known[other].record for other in node.shelf.sets_of_content(content) - {set_id}]
    if set_id in node.unproven and any(
        other.share != "public" and other.owner != known.record.owner for other in others
    ):
        return False  # a document names it, which anybody can write
    domain = known.record.owner.partition("@")[2]
    return all(other.share == "public" or other.owner.partition("@")[2] == domain for other in others)


def check_proven(node: Node, known: Known) -> None:
    """Raise `Busy` while nobody has shown that the bytes here are the set's own."""
    if not proven(node, known):
        raise Busy("this node has not received that set yet")

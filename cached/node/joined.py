"""What a holder says of itself to a node that is to have a set from it."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from cached.peers.records import Port

#: Most bytes of a set's files that travel with an offer.
CONTENT = 16 << 10
#: Most nodes that an offer may name as those who have the metadata, too, and as neighbours.
DESCRIBED = 64
NEIGHBOURS = 64


#: A short word, and the id of a node.
Word = Annotated[str, msgspec.Meta(max_length=32)]
NodeId = Annotated[str, msgspec.Meta(max_length=64)]


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """How a holder gives the bytes of a set: its answer to a node that introduces itself, and part of its offers."""

    #: It holds all bytes; otherwise it is fetching them itself.
    complete: bool
    bittorrent_port: Port
    #: Methods by which it gives bytes, and whether its BitTorrent connections are encrypted (`tls` or `off`).
    methods: Annotated[tuple[Word, ...], msgspec.Meta(max_length=8)] = ("bittorrent", "direct")
    encryption: Word = "tls"
    #: It gives the direct method's streams on connections of their own, too.
    bulk: bool = False


class Enclosed(NamedTuple):
    """What came with an offer, so that it need not be asked for; nothing of it is believed unchecked."""

    #: The node that made the offer.
    node_id: str
    joined: Joined | None
    #: The set's metadata, as the stream of that name would give it; empty where it is asked for.
    metadata: bytes
    #: When it came, by the event loop's clock: consent lapses.
    when: float = 0.0
    #: All bytes of a very small set; empty where they are asked for.
    content: bytes = b""
    #: Nodes that have the metadata, too.
    described: tuple[str, ...] = ()
    #: The receiver's neighbours among those that get the set at the same time.
    neighbours: tuple[str, ...] = ()

    def given(self) -> tuple[str, bytes] | None:
        """Return who sent all bytes, and the bytes, where they came."""
        return (self.node_id, self.content) if 0 < len(self.content) <= CONTENT else None

"""What nodes tell each other: values only, no I/O.

A node speaks for itself in one signed, versioned `NodeRecord`. Durations travel, never timestamps: a record
says how much lease was left when it was signed, and whoever passes it on says how long ago that was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec

from cached.sets.set import SignedRecord, Tier

#: Bounds of what nodes say of themselves: a record that goes beyond is not taken.
_MOST: Final = 2**60
Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
Duration = Annotated[float, msgspec.Meta(ge=-_MOST, le=_MOST)]
Label = Annotated[str, msgspec.Meta(max_length=512)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

HoldingState = Literal["REQUESTED", "TRANSFERRING", "COMMITTED", "REJECTED", "EXPIRED", "GOING"]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end of a connection, proven by its certificate."""

    node_id: str
    #: User domains that the node may speak for; the empty string is the cluster's unnamed domain.
    domains: frozenset[str]


class Holding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica as its holder describes it, at the moment of signing."""

    set_id: Label
    revision: Count
    content: Label
    state: HoldingState
    tier: Tier = "disk"
    bytes_present: Count = 0
    #: Seconds left of the holder's grant.
    lease_seconds_left: Duration = 0.0
    #: Seconds left of the set's own lease, as the holder knows it.
    set_lease_seconds_left: Duration = 0.0
    reason: str = ""
    #: A memory copy that ends with the boot and never counts as durable.
    volatile: bool = False
    #: Of a replica on its way: bytes per second of late.
    bytes_per_second: Duration = 0.0


class NodeContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says about itself; `Directory.publish` adds identity, address and version."""

    host: str = ""
    bittorrent_port: int = 0
    #: The node ad, as JSON-able values (see `cached.matching.ads`).
    ad: dict[str, Any] = {}
    capacity_bytes: int = 0
    free_bytes: int = 0
    replicas: tuple[Holding, ...] = ()
    #: Ids of deleted sets whose deletion this node has carried out.
    tombstones: tuple[str, ...] = ()


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of what a node says about itself."""

    id: Label
    #: A label, unique among live nodes once they have met.
    name: Label
    #: `host:port` of the control port, as peers are to dial it.
    address: Label
    #: False: nobody can dial the node; it keeps polls open instead.
    reachable: bool = True
    #: Grows with each start of the daemon; `version` with each change within one.
    incarnation: Count
    version: Count
    #: Nothing but how far replicas are on their way is another than in the version before: no news worth a rumour.
    quiet: bool = False
    #: Seconds since the daemon started, at signing.
    uptime_seconds: Duration = 0.0
    host: Label = ""
    bittorrent_port: Port = 0
    ad: dict[str, Any] = {}
    capacity_bytes: Count = 0
    free_bytes: Count = 0
    replicas: tuple[Holding, ...] = ()
    tombstones: tuple[str, ...] = ()


class SignedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node record as it travels: `payload` is the JSON of a `NodeRecord`."""

    payload: bytes
    certificate: bytes
    signature: bytes
    #: Seconds since signing, counted up by each node that keeps or passes on the record.
    age_seconds: Duration = 0.0


class Beat(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A signed sign of life; `left` announces an orderly stop."""

    node_id: str
    incarnation: int
    beat: int
    left: bool
    signature: bytes

    def payload(self) -> bytes:
        """Return the bytes that the node signs."""
        return f"{self.node_id} {self.incarnation} {self.beat} {int(self.left)}".encode()


class SignedRevocations(msgspec.Struct, frozen=True, kw_only=True):
    """The authority's list of node ids no longer trusted; the higher `number` in the payload wins."""

    payload: bytes
    #: DER certificate of the authority that signed.
    authority: bytes
    signature: bytes


class Revocations(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of `SignedRevocations`."""

    cluster: str
    number: int
    nodes: tuple[str, ...] = ()


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A node as this node's directory knows it."""

    record: NodeRecord
    alive: bool
    #: Seconds since the last sign of life arrived here.
    age: float
    #: Seconds since the record was signed: subtract from the durations in it.
    record_age: float
    #: User domains in the node's certificate.
    domains: frozenset[str]
    #: It has said goodbye: it does not run any more.
    left: bool = False


class HolderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One replica somewhere, with leases already brought forward to now."""

    node: NodeEntry
    holding: Holding


class RecordBook(Protocol):
    """The set records and tombstones of one node, as gossip sees them; implemented by `cached.node`."""

    def known(self) -> Mapping[str, tuple[int, str]]:
        """Return set id -> (revision, `digest` of the signed record); from memory, cheap."""
        ...

    def give(self, set_ids: list[str]) -> list[SignedRecord]:
        """Return the records asked for that are known, each with its age as of now."""
        ...

    async def take(self, records: list[SignedRecord], from_node: str) -> None:
        """Keep what `cached.sets.set.newer` prefers; signatures are already verified."""
        ...


def digest(signed: SignedRecord) -> str:
    """Return the 16 hex digits by which two nodes see whether they have the same record."""
    return hashlib.sha256(signed.payload).hexdigest()[:16]

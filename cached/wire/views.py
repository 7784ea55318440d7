"""Sets, replicas, files and nodes as a reader sees them."""

from __future__ import annotations

from typing import Any

import msgspec

from cached.wire.kinds import Availability, Kind, ReplicaState, Seconds, SetState


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as it is seen now."""

    #: RFC 3339 UTC, by the answering node's clock; for people.
    expires_at: str
    seconds_left: Seconds


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One node's copy of a set."""

    #: The node's label.
    node: str
    host: str
    state: ReplicaState
    tier: str
    bytes_present: int
    #: Of the node's grant; null without one.
    lease_seconds_left: Seconds | None = None
    #: Why it is refused, waits, or does not progress; empty when there is nothing to say.
    reason: str = ""
    #: In memory only: gone after a boot, never counted as a durable copy.
    volatile: bool = False
    #: Node id.
    node_id: str = ""
    #: Whether the node was heard of lately; what a dead node held may be gone.
    alive: bool = True
    #: Of a replica on its way; null when nothing moves, or when it is not on its way.
    bytes_per_second: Seconds | None = None
    #: Until it is whole at that rate.
    seconds_left: Seconds | None = None


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a set is on its way to where the origin keeps it."""

    #: Bytes and files that are there.
    bytes_present: int
    bytes_wanted: int
    files_done: int
    #: Why the last attempt failed; empty while one goes on.
    reason: str = ""
    #: Until the next attempt; null while one goes on.
    retry_in_seconds: Seconds | None = None


class SetView(msgspec.Struct, frozen=True, kw_only=True):
    """A cache set as its reader sees it on one node."""

    name: str
    owner: str
    id: str
    content: str
    revision: int
    bytes: int
    files: int
    state: SetState
    #: The expression as the owner wrote it; empty stands for the default.
    requirements: str
    methods: tuple[str, ...]
    #: `private`, `public` or `group:NAME`.
    share: str
    tier: str
    #: Copies wanted besides the originator's; -1 for every node that matches.
    replicas_wanted: int
    #: The originator's label.
    originator: str
    #: The caller's on the answering node, else null.
    lease: LeaseView | None = None
    replicas: list[ReplicaView] = []
    scope: str = ""
    #: Where the origin keeps it, `gs://BUCKET/PREFIX`; empty without one.
    origin: str = ""
    #: How far it is on its way there, while this node brings it there; else null.
    upload: UploadView | None = None


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the answering node knows it."""

    name: str
    id: str
    host: str
    #: `host:port` of its peers' control port.
    address: str
    alive: bool
    capacity_bytes: int
    free_bytes: int
    #: Number of sets of which it holds a committed replica.
    sets: int
    #: Its ad, as far as it is public: names to values.
    attributes: dict[str, Any]
    #: Since its record was last renewed.
    age_seconds: Seconds = 0


class LimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's links may take, for all payload that it exchanges with other nodes; null: no limit."""

    upload_bytes_per_second: int | None
    download_bytes_per_second: int | None
    #: As configured; otherwise they were changed since the start, and hold until the next one.
    configured: bool


class MatchView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a set and a node agree, and if not, who refused and why."""

    node: str
    matches: bool
    #: The set's requirements hold on the node.
    set_side: bool
    #: The node's requirements hold for the set.
    node_side: bool
    reasons: list[str]


class LocateView(msgspec.Struct, frozen=True, kw_only=True):
    """How near the data is to a node: one line of a ranking, best first."""

    node: str
    host: str
    state: str
    bytes_present: int
    bytes_wanted: int
    lease_seconds_left: Seconds | None
    free_bytes: int
    matches: bool
    #: Until the node would hold all of it; null when it cannot, or nothing can be said.
    estimate_seconds: Seconds | None = None


class LocatedSet(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a set that was asked for can be had at all."""

    name: str
    id: str
    available: Availability


class LocateReply(msgspec.Struct, frozen=True, kw_only=True):
    """A ranking, and how old the directory was that it was made from."""

    items: list[LocateView]
    directory_age_seconds: Seconds
    #: In the order in which they were named.
    sets: list[LocatedSet] = []


class FileView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of a set's manifest."""

    path: str
    kind: Kind
    size: int = 0
    executable: bool = False
    #: Of a link, else null.
    target: str | None = None
    #: Modification time of the source, RFC 3339 UTC; null when unknown.
    mtime: str | None = None
    #: The same exactly, in nanoseconds since 1970; null when unknown.
    mtime_ns: int | None = None
    #: BEP 52 merkle root, 64 hex digits; null for empty files, directories and links.
    root: str | None = None

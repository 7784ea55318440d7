"""Values on the wire: the JSON of the local sockets and of the command line, as typed structs.

These shapes are a contract with programs outside (sizes in bytes, durations in seconds, instants in
RFC 3339 UTC). Every field is always present in the JSON, `null` where it has no value. Fields may be
added, never changed. A receiver ignores fields that it does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from cached.errors import UsageError

Value = TypeVar("Value")
#: A duration: whole where somebody decided it, fractional where it was measured.
Seconds = int | float
Kind = Literal["file", "dir", "link"]
SetState = Literal["UNCOMMITTED", "UPLOADING", "COMMITTED", "WITHDRAWN"]
ReplicaState = Literal["REQUESTED", "TRANSFERRING", "COMMITTED", "REJECTED", "EXPIRED", "GOING"]

#: What decoding raises for bytes that are no value of the kind wanted; nested too deeply is among it.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
#: Nanoseconds since 1970, as the store keeps them.
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
#: Longest duration that anybody may ask for, in seconds.
MAX_SECONDS: Final = 2**50

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Return the JSON of a struct, or of plain dicts and lists of them, in UTF-8 without line ends."""
    return _encoder.encode(value)


def decode(data: bytes | bytearray | memoryview | str, kind: type[Value]) -> Value:
    """Read JSON as a value of `kind`; raises `UsageError` that names the first field which does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise UsageError(f"the message is not well formed: {error}") from error


def convert(value: Any, kind: type[Value]) -> Value:
    """Read an already parsed JSON value as a value of `kind`; raises `UsageError` as `decode` does."""
    try:
        return msgspec.convert(value, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError(f"the message is not well formed: {error}") from error


def items(values: Any) -> dict[str, Any]:
    """Return the JSON shape of every list: `{"items": [...]}`."""
    return {"items": list(values)}


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
    #: Until the node would hold all of it; null when nothing can be said.
    estimate_seconds: Seconds | None = None


class LocateReply(msgspec.Struct, frozen=True, kw_only=True):
    """A ranking, and how old the directory was that it was made from."""

    items: list[LocateView]
    directory_age_seconds: Seconds


class FileView(msgspec.Struct, frozen=True, kw_only=True):
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


class CreateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the creator of a set may ask for; null leaves the choice to the node.

    When the creator has such a set already, null is whatever that set has.
    """

    lease_seconds: int | None = None
    min_lease_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)] = 0
    requirements: str | None = None
    #: Copies besides the originator's; -1 for every node that matches.
    replicas: int | None = None
    methods: tuple[Literal["bittorrent", "direct"], ...] | None = None
    tier: Literal["disk", "memory"] | None = None
    share: str | None = None
    #: `gs://BUCKET/PREFIX`; empty: not kept in an origin.
    origin: str = ""
    scope: str | None = None
    #: Move a taken name to the new set and withdraw the old one.
    replace: bool = False
    #: Answer only when the replicas are there too.
    wait: bool = False


class NewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file, directory or link that a client hands over to a set being created."""

    #: Relative to the set's root.
    path: str
    kind: Kind
    size: int = 0
    executable: bool = False
    mtime_ns: Nanoseconds = 0
    target: str = ""


class NodeProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one node is with its copy."""

    node: str
    host: str = ""
    state: str = ""
    bytes_present: int = 0
    bytes_wanted: int = 0
    reason: str = ""
    bytes_per_second: Seconds | None = None
    #: Until it is done at the present rate; null when it does not move.
    seconds_left: Seconds | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a long piece of work is; cumulative, so that any report may be lost."""

    bytes_present: int = 0
    bytes_wanted: int = 0
    files_done: int = 0
    state: str = ""
    #: Why it does not progress; empty while it does.
    reason: str = ""
    #: Per node, where several work at it.
    nodes: list[NodeProgress] = []


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """One node's answer to a wish for a lease."""

    node: str
    granted: bool
    seconds: Seconds = 0
    shortened: bool = False
    reason: str = ""


class ExtendReply(msgspec.Struct, frozen=True, kw_only=True):
    """The set after `extend`, and what each node asked said to it."""

    set: SetView
    grants: list[GrantView] = []


class DeleteItem(msgspec.Struct, frozen=True, kw_only=True):
    """What `delete` does, or would do, on one node."""

    node: str
    action: str
    bytes: int = 0
    reason: str = ""


class DeleteReply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a deleted set."""

    set: str
    name: str
    state: str
    dry_run: bool = False
    items: list[DeleteItem] = []


class ReplicateReply(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas after `replicate` or `fetch`."""

    items: list[ReplicaView]
    #: Every node that was wanted has it.
    complete: bool
    wanted: int
    have: int


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a replica that is not what the manifest says."""

    path: str
    reason: str
    repaired: bool = False


class VerifyReply(msgspec.Struct, frozen=True, kw_only=True):
    """The result of checking a replica against its manifest."""

    ok: bool
    damaged: list[Damage]
    bytes: int


class SetHead(msgspec.Struct, frozen=True, kw_only=True):
    """The few facts about a set that come with every descriptor."""

    id: str
    name: str
    owner: str
    content: str


class OpenReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `open` on `data.sock` answers; one descriptor comes with it."""

    set: SetHead
    kind: Literal["file", "dir"]
    size: int = 0
    executable: bool = False
    ok: bool = True
    v: int = 1

"""What the verbs on sets take, report while they work, and answer."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from cached.wire.kinds import MAX_SECONDS, Kind, Nanoseconds, Seconds
from cached.wire.views import MatchView, ReplicaView, SetView


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
    #: `gs://BUCKET/PREFIX` whose objects become the files; empty: the files are handed over.
    source: str = ""
    #: `gs://BUCKET/PREFIX` where a set is kept, to be made again; empty: the files are handed over.
    source_set: str = ""
    scope: str | None = None
    #: Move a taken name to the new set and withdraw the old one.
    replace: bool = False
    #: Answer only when the replicas are there too.
    wait: bool = False


#: Bytes of a bundle of small files, at most.
BUNDLE_BYTES: Final = 2 << 20


class NewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file, directory or link that a client hands over to a set being created."""

    #: Relative to the set's root.
    path: str
    kind: Kind
    size: int = 0
    executable: bool = False
    mtime_ns: Nanoseconds = 0
    target: str = ""
    #: Its bytes are in the packet's first descriptor, one file after the other, and it has none of its own.
    bundled: bool = False


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
    #: Live nodes that do not match, so that nobody waits for them, where all or more than match are wanted.
    unmatched: list[MatchView] = []


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

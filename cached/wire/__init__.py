"""Values on the wire: the JSON of the local sockets and of the command line, as typed structs.

These shapes are a contract with programs outside (sizes in bytes, durations in seconds, instants in
RFC 3339 UTC). Every field is always present in the JSON, `null` where it has no value. Fields may be
added, never changed. A receiver ignores fields that it does not know.
"""

from __future__ import annotations

from cached.wire.coding import UNREADABLE, convert, decode, encode, encode_items, items
from cached.wire.kinds import MAX_SECONDS, Kind, Nanoseconds, ObjectTier, ReplicaState, Seconds, SetState
from cached.wire.objects import (
    DUMP_METADATA,
    Attested,
    ClearItem,
    ClearReply,
    CopyList,
    CopyView,
    ObjectList,
    ObjectReply,
    ObjectView,
    ScopeItem,
    ScopeReply,
)
from cached.wire.token import MAX_TOKEN, checked_token
from cached.wire.verbs import (
    BUNDLE_BYTES,
    CreateOptions,
    Damage,
    DeleteItem,
    DeleteReply,
    ExtendReply,
    GrantView,
    NewEntry,
    NodeProgress,
    OpenReply,
    Progress,
    ReplicateReply,
    SetHead,
    VerifyReply,
)
from cached.wire.views import (
    FileView,
    LeaseView,
    LimitsView,
    LocateReply,
    LocateView,
    MatchView,
    NodeView,
    ReplicaView,
    SetView,
    UploadView,
)

__all__ = [
    "BUNDLE_BYTES",
    "DUMP_METADATA",
    "MAX_SECONDS",
    "MAX_TOKEN",
    "UNREADABLE",
    "Attested",
    "ClearItem",
    "ClearReply",
    "CopyList",
    "CopyView",
    "CreateOptions",
    "Damage",
    "DeleteItem",
    "DeleteReply",
    "ExtendReply",
    "FileView",
    "GrantView",
    "Kind",
    "LeaseView",
    "LimitsView",
    "LocateReply",
    "LocateView",
    "MatchView",
    "Nanoseconds",
    "NewEntry",
    "NodeProgress",
    "NodeView",
    "ObjectList",
    "ObjectReply",
    "ObjectTier",
    "ObjectView",
    "OpenReply",
    "Progress",
    "ReplicaState",
    "ReplicaView",
    "ReplicateReply",
    "ScopeItem",
    "ScopeReply",
    "Seconds",
    "SetHead",
    "SetState",
    "SetView",
    "UploadView",
    "VerifyReply",
    "checked_token",
    "convert",
    "decode",
    "encode",
    "encode_items",
    "items",
]

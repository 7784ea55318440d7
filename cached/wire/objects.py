"""Objects of Cloud Storage, and what the verbs on them answer."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from cached.wire.kinds import ObjectTier


class ObjectView(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of an object in Cloud Storage."""

    bucket: str
    name: str
    generation: int
    size: int
    #: CRC-32C (Castagnoli) of the bytes as stored, eight hex digits.
    crc32c: str
    content_type: str = ""
    #: RFC 3339 UTC; when this generation was written.
    updated: str = ""
    #: `gs://BUCKET/NAME#GENERATION`.
    address: str = ""
    #: What whoever wrote it put beside it. Empty where Cloud Storage was not asked (the freshness window).
    metadata: dict[str, str] = {}


class CopyView(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of one generation of an object on this node, which the caller has read or brought here."""

    #: `gs://BUCKET/NAME#GENERATION`.
    address: str
    bucket: str
    name: str
    generation: int
    #: Of the object; of parts of it, what is here.
    bytes: int
    #: False: only parts of it, which this node keeps for the cluster.
    whole: bool
    #: `disk`, `memory`, or both.
    tiers: list[str]
    #: Since it was last used.
    age_seconds: float
    #: Empty: none, or others read it too.
    scope: str = ""


class CopyList(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's copies."""

    items: list[CopyView]


#: The key in an object's metadata under which a node's statement lies about who dumped it.
DUMP_METADATA: Final = "cached-dump"


class Attested(msgspec.Struct, frozen=True, kw_only=True):
    """Who dumped an object, as a node of this cluster attests."""

    user: str
    #: It is the user who asks.
    own: bool
    #: Which file the node looked at: device and inode; empty when no copy could be kept.
    file: str = ""


class ObjectReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `object` on `data.sock` answers; one descriptor comes with it, none when `through`."""

    object: ObjectView
    #: What `close` names.
    pin: str
    #: Where the bytes came from.
    tier: ObjectTier
    size: int
    #: No copy could be kept here: read ranges on `api.sock`.
    through: bool = False
    ok: bool = True
    v: int = 1


class ObjectList(msgspec.Struct, frozen=True, kw_only=True):
    """What lies below a prefix: objects, and with a delimiter the common beginnings of the others."""

    items: list[ObjectView]
    prefixes: list[str] = []
    #: What kept the list from being whole, as in an answer that is an error.
    error: dict[str, Any] | None = None


class ClearItem(msgspec.Struct, frozen=True, kw_only=True):
    """What `clear` took from one node."""

    node: str
    entries: int = 0
    bytes: int = 0
    reason: str = ""


class ClearReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `clear` took from all nodes."""

    entries: int
    bytes: int
    items: list[ClearItem] = []


class ScopeItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the end of a scope removes."""

    kind: Literal["set", "object", "origin"]
    name: str
    #: Empty for what lies in Cloud Storage.
    node: str = ""
    bytes: int = 0
    action: str = ""
    reason: str = ""


class ScopeReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the end of a scope removed, or would."""

    scope: str
    dry_run: bool
    sets: int
    objects: int
    origin_objects: int
    bytes: int
    items: list[ScopeItem] = []

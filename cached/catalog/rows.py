"""What the catalog remembers, one frozen value per kind of row.

A row refers to another by key, and the catalog checks it at once: put the set before its replica and
transfer, put the content before its replica; delete in the opposite order.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cached.leases.deadline import Deadline, Moment
from cached.leases.lifecycle import ContentState, ReplicaState
from cached.sets.set import Status, Tier

#: What space is set aside for; `spool` goes with the daemon, and is written down nowhere.
Purpose = Literal["create", "replica", "memory", "spool"]


class SetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A set of the cluster that this node knows of, held here or not; a tombstone too (`status` deleted)."""

    id: str
    name: str
    owner: str
    #: Content id.
    content: str
    revision: int
    status: Status
    #: The `SignedRecord` as msgpack; its `age_seconds` counts from `age_base`.
    record: bytes
    #: The moment at which the record's age was zero.
    age_base: Moment
    #: Until when the owner wants the set; of a tombstone: until when it is kept.
    lease: Deadline
    #: Node id.
    originator: str
    #: Created on this node.
    local: bool


class ContentRow(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on this node, key `(content, tier)`; several sets may share them."""

    content: str
    tier: Tier
    #: Logical bytes: the sum of the file sizes.
    bytes: int
    #: What they take on the partition (see `cached.leases.capacity.physical`), less the files that lie there for
    #: another content of the family already.
    physical: int
    state: ContentState
    #: Contents of one family may have files in common (see `cached.leases.sharing`); empty for one that has none.
    family: str = ""


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True):
    """This node's copy of a set, and what the node has promised for it."""

    set_id: str
    content: str
    tier: Tier
    state: ReplicaState
    #: Until when this node guarantees its copy.
    grant: Deadline
    #: The length of that grant when it was given; renewal is due at half of it.
    granted_seconds: int
    #: Logical bytes, as counted against the owner's quota.
    bytes: int
    owner: str
    #: Unix seconds, for people.
    created_wall: float
    last_read_wall: float = 0.0
    #: Boot id under which the bytes were last known to be synced or verified; empty: verify before serving.
    verified_boot: str = ""
    #: Why it is in this state, in words.
    reason: str = ""


class ReservationRow(msgspec.Struct, frozen=True, kw_only=True):
    """Space set aside before a byte is written, under `incoming/<txid>`."""

    txid: str
    purpose: Purpose
    tier: Tier
    #: Physical bytes.
    bytes: int
    #: Logical bytes, as counted against the owner's quota.
    logical: int = 0
    owner: str
    #: Empty until known.
    set_id: str = ""
    content: str = ""


class TransferRow(msgspec.Struct, frozen=True, kw_only=True):
    """A replica on its way here, to be resumed after a restart."""

    txid: str
    set_id: str
    content: str
    tier: Tier
    #: Node id of the holder that offered it.
    source: str
    #: Manifest and leaves are whole and verified under `incoming/<txid>`.
    manifest_ready: bool = False
    #: Of the torrent; 0 while none was chosen.
    piece_size: int = 0
    #: Whatever else the use case needs to go on, encoded by it.
    offer: bytes = b""


class CheckRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the last comparison of a content with its manifest found; goes with the content's row."""

    content: str
    tier: Tier
    #: When it was, in Unix seconds, and in which boot.
    wall: float
    boot: str
    #: Paths that must not be served before they are repaired, as a JSON list; empty when the content is whole.
    damaged: bytes = b""
    #: What is wrong, in words.
    reason: str = ""


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A set on its way into the origin, to be gone on with after a restart; goes with the set's row."""

    set_id: str
    content: str
    #: `gs://BUCKET/PREFIX`.
    target: str
    #: What is there already, encoded by the use case.
    done: bytes = b""
    #: Why it waits, in words; empty while it goes on.
    reason: str = ""


class ObjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of an object, or of a block of one."""

    #: Of its file.
    name: str
    #: What it is, encoded by the use case.
    entry: bytes


class ScopedRow(msgspec.Struct, frozen=True, kw_only=True):
    """An object that a user wrote to Cloud Storage through this node for a scope."""

    owner: str
    scope: str
    bucket: str
    name: str
    generation: int
    bytes: int


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one user took of one tier in one hour, in one scope."""

    #: Hours since 1970, UTC.
    hour: int
    owner: str
    kind: Literal["set", "object"]
    tier: str
    scope: str
    #: Bytes held, times the seconds that they were held for.
    byte_seconds: float = 0.0
    #: Bytes and requests that Cloud Storage did not have to serve.
    saved_bytes: int = 0
    saved_operations: int = 0
    #: Those that it did.
    spent_bytes: int = 0
    spent_operations: int = 0


class MetaRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about the catalog itself."""

    key: str
    value: str

"""The set record: what binds a name and an owner to one content, and how replicas are to be kept.

A record is metadata: the owner may change it, each change is a new revision, and the higher revision wins
everywhere. The content it names never changes. Records travel signed (`SignedRecord`), so that any holder can
pass them on.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import msgspec

Tier = Literal["disk", "memory"]
Method = Literal["bittorrent", "direct"]
Status = Literal["live", "withdrawn", "deleted"]

#: `replicas` value that asks for a copy on every node that matches.
ALL = -1


class SetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of a set's metadata.

    Durations travel, never timestamps: `lease_seconds` counts from the moment of signing, and whoever passes
    the record on says how long ago that was (`SignedRecord.age_seconds`).
    """

    #: 32 hex digits, never reused: `set_id` of owner, content and nonce, so that nobody can use the id of
    #: another's set.
    id: str
    name: str
    #: `user` or `user@domain`.
    owner: str
    #: Content id, 64 hex digits.
    content: str
    #: Random, 32 hex digits: what makes the id of each creation another one.
    nonce: str = ""
    #: Sum of the sizes of all files, in bytes.
    bytes: int
    #: Number of regular files.
    files: int
    #: Grows by one with each change of metadata.
    revision: int = 1
    #: ClassAd expression; empty stands for the default of `cached.matching.ads`.
    requirements: str = ""
    #: `private`, `public` or `group:NAME`.
    share: str = "private"
    #: Copies wanted besides the originator's; `ALL` for every node that matches.
    replicas: int = ALL
    methods: tuple[Method, ...] = ("bittorrent", "direct")
    tier: Tier = "disk"
    #: Node id of the originator, and the names people know it by.
    originator: str
    originator_name: str = ""
    originator_host: str = ""
    #: How long the owner wants the set kept, in seconds from signing.
    lease_seconds: int
    min_lease_seconds: int = 0
    scope: str = ""
    #: `gs://BUCKET/PREFIX` where the set is kept as well; empty: nowhere.
    origin: str = ""
    #: `withdrawn`: no more offers, replicas end with their grants. `deleted`: a tombstone.
    status: Status = "live"


class SignedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A set record as it travels: the exact bytes signed, by whom, and how long ago.

    `payload` is the JSON of a `SetRecord`. The signature is the signing node's; its certificate says for
    which user domains that node may speak.
    """

    payload: bytes
    #: DER certificate of the signing node.
    certificate: bytes
    signature: bytes
    #: Seconds since signing, counted up by each node that keeps or passes on the record.
    age_seconds: float = 0.0

    def record(self) -> SetRecord:
        """Decode the payload, without checking the signature (see `cached.peers.identity`)."""
        return msgspec.json.decode(self.payload, type=SetRecord)


def set_id(owner: str, content: str, nonce: str) -> str:
    """Return the id of the set that an owner makes of a content."""
    return sha256(f"cached-set 1\n{owner}\n{content}\n{nonce}\n".encode()).hexdigest()[:32]


def newer(left: SignedRecord, right: SignedRecord) -> SignedRecord:
    """Of two records of one set, return the one that holds: deleted first, then revision, then payload.

    Total and order-independent, so that all nodes agree whichever they heard first.
    """

    def rank(signed: SignedRecord) -> tuple[bool, int, bytes]:
        record = signed.record()
        return (record.status == "deleted", record.revision, signed.payload)

    return left if rank(left) >= rank(right) else right

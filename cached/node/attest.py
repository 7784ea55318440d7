"""Who dumped an object: a statement that this node signs, kept with the object, and checked by any node.

Unpickling runs code, so a reader wants to know who wrote what it is about to unpickle. Cloud Storage does not say:
whoever may write a bucket may replace an object, and one account may serve many users. The node does know, from its
kernel, which user hands it the bytes. Its statement binds that user, the SHA-256 of the bytes, and where they are to
lie; it says nothing about when, so an older dump by the same user at the same place passes too.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cached.addresses import Address
from cached.errors import CachedError, Forbidden
from cached.node.caller import Caller
from cached.node.node import Node

#: Longest statement read, in bytes; Cloud Storage keeps 8 KiB of metadata.
_LONGEST: Final = 8192


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed."""

    user: str
    #: Hex digits.
    sha256: str
    bucket: str
    name: str


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of a claim, and whose word it is."""

    payload: bytes
    #: DER
    certificate: bytes
    signature: bytes


def attest(node: Node, caller: Caller, sha256: str, address: Address) -> str:
    """Return the signed statement that `caller` dumps these bytes to `address`; ASCII, about 2 KiB."""
    claim = Claim(user=caller.user, sha256=sha256, bucket=address.bucket, name=address.name)
    payload = msgspec.json.encode(claim)
    signed = Signed(
        payload=payload, certificate=node.identity.certificate, signature=node.identity.sign_dump(payload)
    )
    node.counters.add("attest.signed")
    return msgspec.json.encode(signed).decode()


def check(node: Node, statement: str, sha256: str, address: Address) -> str:
    """Return the user who dumped the bytes with this SHA-256 to `address`.

    Raises `Forbidden`: no statement, not by a member of this cluster (or one that is revoked, or may not speak for
    the user), or about other bytes or another place.
    """
    try:
        claim = _claim(node, statement)
        if (claim.bucket, claim.name) != (address.bucket, address.name):
            raise _Doubt(
                f"it was dumped by {claim.user} as gs://{claim.bucket}/{claim.name} and moved here", claim
            )
        if claim.sha256 != sha256:
            raise _Doubt(f"it is not what {claim.user} dumped here", claim)
    except _Doubt as doubt:
        node.counters.note("attest.refused", doubt.why, address=address)
        raise Forbidden(
            f"{address}: {doubt.why}", hint=HINT, **({"user": doubt.claim.user} if doubt.claim else {})
        ) from None
    return claim.user


HINT: Final = 'unpickling runs code; if you trust whoever can write there: load(..., trust="anyone")'


class _Doubt(Exception):
    """Why a statement does not hold."""

    def __init__(self, why: str, claim: Claim | None = None) -> None:
        super().__init__(why)
        self.why, self.claim = why, claim


def _claim(node: Node, statement: str) -> Claim:
    """Return what a member of the cluster that may speak for the user has signed."""
    if not statement:
        raise _Doubt("no node attests who dumped it")
    if len(statement) > _LONGEST:
        raise _Doubt("the statement about who dumped it cannot be read")
    try:
        signed = msgspec.json.decode(statement, type=Signed)
        signer = node.identity.verify_dump(signed.certificate, signed.payload, signed.signature)
        claim = msgspec.json.decode(signed.payload, type=Claim)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _Doubt("the statement about who dumped it cannot be read") from None
    except CachedError as error:
        raise _Doubt(f"the statement about who dumped it does not hold: {error.message}") from None
    if claim.user.partition("@")[2] not in signer.domains:
        raise _Doubt(f"node {signer.node_id[:8]} may not speak for {claim.user}", claim)
    return claim

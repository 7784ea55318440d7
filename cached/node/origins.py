"""The origin as the node's verbs see it: whether there is one, who may name what, and where a content lies there."""

from __future__ import annotations

import asyncio

from cached.addresses import Prefix, parse_prefix
from cached.errors import CachedError, Forbidden, IntegrityFailed, Refused
from cached.node.caller import Caller
from cached.node.node import Node
from cached.origin import places, rights
from cached.origin.crc import crc32c
from cached.origin.origin import MOST_AT_ONCE, Origin
from cached.origin.places import Places
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets.manifest import Manifest


def port(node: Node) -> Origin:
    """Return the origin. Raises `Refused` when this node has none."""
    if node.origin is None:
        raise Refused(
            "this node has no origin configured", hint="[origin] buckets lists those that users may name"
        )
    return node.origin


def named(node: Node, caller: Caller, text: str) -> Prefix:
    """Return the prefix that a user names, if that user may. Raises `UsageError`, `Refused` or `Forbidden`."""
    prefix = parse_prefix(text)
    port(node)
    if not may_name(node, caller.user, caller.groups, prefix.bucket):
        raise Forbidden(
            f"user {caller.user} may not name gs://{prefix.bucket} on this node",
            hint="its operator lists under [origin] buckets who may name which",
        )
    return prefix


def may_name(node: Node, user: str, groups: frozenset[str], bucket: str) -> bool:
    """Tell whether a user may have this node's account read and write a bucket."""
    allowed = node.config.origin.buckets.get(bucket, ())
    return rights.may_name(allowed, user, groups, domain=node.config.cluster.user_domain)


def serves(node: Node, owner: str, bucket: str) -> bool:
    """Tell whether this node may read a bucket for a set of `owner`, who need not be known here."""
    name, _, domain = owner.partition("@")
    own = domain == node.config.cluster.user_domain
    groups = node.groups_of(name) if own else frozenset[str]()
    return node.origin is not None and may_name(node, owner, groups, bucket)


async def read(node: Node, pinned: Pinned, most: int) -> bytes:
    """Return a whole object, verified, which memory holds. Raises `IntegrityFailed` for more than `most` bytes."""
    if pinned.size > most:
        raise IntegrityFailed(f"{pinned.address} has {pinned.size} bytes, and should have {most} at most")
    origin = port(node)
    parts = [
        await origin.read(pinned, start, start + MOST_AT_ONCE, token=NODE_ACCOUNT)
        for start in range(0, pinned.size, MOST_AT_ONCE)
    ]
    return await asyncio.to_thread(_whole, parts, pinned)


def _whole(parts: list[bytes], pinned: Pinned) -> bytes:
    data = b"".join(parts)
    if crc32c(data) != pinned.crc32c:
        raise IntegrityFailed(f"{pinned.address}: the bytes received do not have its crc32c")
    return data


def places_of(node: Node, content: str) -> bytes | None:
    """Return where the files of a content that is here lie in the origin, as it is kept, or None. Blocks."""
    for tier, store in node.stores.items():
        row = node.shelf.contents.get((content, tier))
        if row is not None and row.state == "STABLE":
            found = store.places(content)
            if found is not None:
                return found
    return None


async def usable(node: Node, owner: str, data: bytes | None, manifest: Manifest) -> Places | None:
    """Return where a set's files lie, when this node may read there for its owner; None otherwise."""
    if not data:
        return None
    try:
        found = await asyncio.to_thread(places.decode, data, manifest)
    except CachedError as error:
        node.counters.note("origin.map_unusable", error.message)
        return None
    return found if serves(node, owner, found.bucket) else None

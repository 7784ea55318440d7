"""Copies of this node, opened: what is here, proven, and what Cloud Storage describes."""

from __future__ import annotations

from cached.objects.cache import ObjectCache
from cached.objects.copies import Copy
from cached.objects.proof import let_go, proven
from cached.origin.values import Pinned


async def open_copy(cache: ObjectCache, name: str, user: str) -> Copy | None:
    """Open a copy of this node, compared with its checksum once a boot."""
    copy = cache.tiers.open(name, user, cache.wall())
    return None if copy is None else await proven(cache.tiers, copy, cache.count)


async def matching(cache: ObjectCache, copy: Copy, pinned: Pinned) -> Copy | None:
    """Return a copy that is what Cloud Storage describes; one that is not goes, and the answer is None."""
    entry = copy.entry
    if (entry.size, entry.crc32c) == (pinned.size, pinned.crc32c):
        entry.matched = True
        return copy
    let_go(cache.tiers, copy)
    cache.count("objects.peer_corrupt")
    await cache.tiers.remove(entry, "damaged")
    return None


def open_verified(cache: ObjectCache, name: str, user: str) -> Copy | None:
    """Open a copy whose checksum was found right in this boot; never waits."""
    entry = cache.tiers.lookup(name)
    if entry is None or not cache.tiers.is_verified(entry):
        return None
    return cache.tiers.open(name, user, cache.wall())

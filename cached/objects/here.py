"""Copies of this node, compared with their checksums once a boot: nothing synced them to disk."""

from __future__ import annotations

import asyncio
import os

from cached.critical import to_the_end
from cached.objects.assembly import crc_of
from cached.objects.cache import ObjectCache
from cached.objects.copies import Copy
from cached.origin.values import Pinned


async def open_copy(cache: ObjectCache, name: str, user: str) -> Copy | None:
    """Open a copy of this node, compared with its checksum once a boot."""
    copy = cache.tiers.open(name, user, cache.wall())
    if copy is None or cache.tiers.is_verified(copy.entry):
        return copy
    try:
        crc = await to_the_end(asyncio.to_thread(crc_of, copy.fd, copy.entry.size))
    except BaseException:
        let_go(cache, copy)
        raise
    if crc == copy.entry.crc32c:
        cache.tiers.verified(copy.entry)
        return copy
    let_go(cache, copy)
    cache.count("objects.damaged")
    await cache.tiers.remove(copy.entry, "damaged")
    return None


async def matching(cache: ObjectCache, copy: Copy, pinned: Pinned) -> Copy | None:
    """Return a copy that is what Cloud Storage describes; one that is not goes, and the answer is None."""
    entry = copy.entry
    if (entry.size, entry.crc32c) == (pinned.size, pinned.crc32c):
        entry.matched = True
        return copy
    let_go(cache, copy)
    cache.count("objects.peer_corrupt")
    await cache.tiers.remove(entry, "damaged")
    return None


def open_verified(cache: ObjectCache, name: str, user: str) -> Copy | None:
    """Open a copy whose checksum was found right in this boot; never waits."""
    entry = cache.tiers.lookup(name)
    if entry is None or not cache.tiers.is_verified(entry):
        return None
    return cache.tiers.open(name, user, cache.wall())


def let_go(cache: ObjectCache, copy: Copy) -> None:
    """Close a copy that nobody reads."""
    os.close(copy.fd)
    cache.tiers.release(copy.entry)

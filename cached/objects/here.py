"""Copies of this node, compared with their checksums once a boot: nothing synced them to disk."""

from __future__ import annotations

import asyncio
import os

from cached.critical import to_the_end
from cached.objects.cache import ObjectCache
from cached.objects.copies import Copy
from cached.origin.crc import crc32c


async def open_copy(cache: ObjectCache, name: str, user: str) -> Copy | None:
    """Open a copy of this node, compared with its checksum once a boot."""
    copy = cache.tiers.open(name, user, cache.wall())
    if copy is None or cache.tiers.is_verified(copy.entry):
        return copy
    try:
        crc = await to_the_end(asyncio.to_thread(_crc_of, copy.fd, copy.entry.size))
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


def _crc_of(fd: int, size: int) -> int:
    crc = at = 0
    while at < size:
        data = os.pread(fd, 1 << 20, at)
        if not data:
            return -1
        crc, at = crc32c(data, crc), at + len(data)
    return crc

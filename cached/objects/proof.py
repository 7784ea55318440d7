"""Copies are compared with their checksums once a boot: nothing synced them to disk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from cached.critical import to_the_end
from cached.objects.assembly import crc_of
from cached.objects.copies import Copy
from cached.objects.tiers import Tiers


async def proven(tiers: Tiers, copy: Copy, count: Callable[[str], None]) -> Copy | None:
    """Return an open copy that is what it was; one that is not is closed and goes, and the answer is None."""
    entry = copy.entry
    if tiers.is_verified(entry):
        return copy
    try:
        crc = await to_the_end(asyncio.to_thread(crc_of, copy.fd, entry.size))
    except OSError:  # the disk does not give it back
        crc = -1
    except BaseException:
        let_go(tiers, copy)
        raise
    if crc == entry.crc32c:
        tiers.verified(entry)
        return copy
    let_go(tiers, copy)
    count("objects.damaged")
    await tiers.remove(entry, "damaged")
    return None


def let_go(tiers: Tiers, copy: Copy) -> None:
    """Close a copy that nobody reads."""
    os.close(copy.fd)
    tiers.release(copy.entry)

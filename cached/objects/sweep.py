"""Find out, now and then, which objects are gone from Cloud Storage, so that their copies do not lie here for ever.

Nobody reads such a copy (every open asks first); it only takes room. The node asks as itself, or as anybody: what it
may not see it keeps, and room pressure or a user's next open settles it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cached.addresses import Address
from cached.objects.cache import ObjectCache
from cached.objects.news import confirm

log = logging.getLogger("cached")

#: Seconds between rounds.
EVERY: Final = 60.0
#: Objects asked about in one round, at most.
ROUND: Final = 200


async def run(cache: ObjectCache, lease: float, every: float = EVERY) -> None:
    """Sweep until cancelled; `lease`: seconds that a scope's copies stay after their last use."""
    after: Address | None = None
    while True:
        await asyncio.sleep(every)
        try:
            await end_left_behind(cache, lease)
            after = await sweep(cache, after)
        except Exception:
            cache.count("objects.sweep_failed")
            log.exception("objects.sweep_failed")


async def end_left_behind(cache: ObjectCache, lease: float) -> None:
    """Let go of the copies of scopes that nobody ended and nobody used for the length of a lease."""
    until = cache.wall() - lease
    entries, _ = await cache.tiers.clear(
        lambda entry: bool(entry.scope) and entry.last_used < until and not entry.pins, "scope"
    )
    if entries:
        cache.count("objects.scope_left_behind", entries)


async def sweep(cache: ObjectCache, after: Address | None = None) -> Address | None:
    """Ask about the next objects in order of their names; return where to go on, None from the beginning."""
    there = sorted({Address(entry.key.bucket, entry.key.name) for entry in cache.tiers.index})
    batch = [address for address in there if after is None or address > after][:ROUND]
    for address in batch:
        if await confirm(cache, address) is None:
            cache.count("objects.sweep_unanswered")
    return batch[-1] if len(batch) == ROUND else None

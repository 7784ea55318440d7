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
    left: list[tuple[str, str]] = []
    while True:
        await asyncio.sleep(every)
        try:
            await end_left_behind(cache, lease)
            await sweep(cache, left)
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


async def sweep(cache: ObjectCache, left: list[tuple[str, str]]) -> None:
    """Ask about the next objects of `left`, and take them off; an empty list is filled with all that have copies here.

    The list is made once for many rounds: with a million copies that takes longer than a reader may wait.
    """
    if not left:
        left += cache.tiers.index.objects()
    for _ in range(min(ROUND, len(left))):
        bucket, name = left.pop()
        if cache.tiers.index.of_object(bucket, name) and await confirm(cache, Address(bucket, name)) is None:
            cache.count("objects.sweep_unanswered")

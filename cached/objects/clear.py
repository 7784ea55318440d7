"""Empty a user's part of the cache, on this node and on all others."""

from __future__ import annotations

from cached.errors import CachedError
from cached.objects.cache import ObjectCache
from cached.objects.entry import Entry
from cached.objects.eviction import Reason
from cached.objects.neighbours import CLEAR, Clear, Cleared, understood


async def clear(cache: ObjectCache, wish: Clear) -> Cleared:
    """Let go of the copies here that a user brought or read, and that nobody else is known to have read."""

    def matches(entry: Entry) -> bool:
        key = entry.key
        return (not wish.bucket or (key.bucket == wish.bucket and key.name.startswith(wish.prefix))) and (
            not wish.scope or entry.scope == wish.scope
        )

    if wish.dry_run:
        found = [entry for entry in cache.tiers.index if matches(entry) and entry.users == (wish.user,)]
        return Cleared(
            entries=len(found), bytes=sum(sum(held.allocated for held in one.held.values()) for one in found)
        )
    cache.freshness.clear(cache.now(), user=wish.user, bucket=wish.bucket or None, prefix=wish.prefix)
    reason: Reason = "scope" if wish.scope else "cleared"
    gone = [entry.name for entry in cache.tiers.index if matches(entry) and entry.users == (wish.user,)]
    entries, size = await cache.tiers.clear(matches, reason, user=wish.user)
    if cache.shared is not None and gone:
        await cache.shared.delete(gone)
    return Cleared(entries=entries, bytes=size)


async def clear_everywhere(cache: ObjectCache, wish: Clear) -> dict[str, Cleared | CachedError]:
    """Do so on all nodes; return what went by node id, or why a node did not."""
    answers = await cache.neighbours.tell(CLEAR, wish, 10.0)
    done: dict[str, Cleared | CachedError] = {cache.neighbours.me: await clear(cache, wish)}
    for node, answer in answers.items():
        try:
            done[node] = answer if isinstance(answer, CachedError) else understood(answer, Cleared)
        except CachedError as error:
            done[node] = error
    return done

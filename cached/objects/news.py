"""News of changes that other nodes tell: what they may cost when they are false.

Nobody reads an old copy for want of news: a copy is kept under its generation, and each open asks Cloud Storage which
one is current, except by who was allowed it within the freshness window. These memories end at once, whoever says so;
that costs the next open one question. A copy itself goes when Cloud Storage confirms that it is old or gone. Until then
it is the first to go when room is wanted, as long as nobody uses it again. So a member that lies costs questions, and
not the copies of others; how often each did, and how many questions it may cause, is counted.
"""

from __future__ import annotations

from cached.addresses import Address
from cached.errors import CachedError, NotFound
from cached.objects.cache import ObjectCache
from cached.objects.entry import Entry
from cached.objects.neighbours import Changed
from cached.objects.read import forget, old_copies
from cached.origin.values import NODE_ACCOUNT


async def heard(cache: ObjectCache, teller: str, news: Changed) -> None:
    """Take in that a node says an object was written, or is gone: whoever reads it asks anew."""
    cache.freshness.forget(news.bucket, news.name, cache.now())
    address = Address(news.bucket, news.name)
    copies = old_copies(cache, address, news.generation or None)
    if not copies:
        return
    for entry in copies:
        cache.tiers.index.doubt(entry)
    if cache.credit.spend(teller, cache.now()):
        cache.later(_settle(cache, teller, address, copies))
    else:
        cache.count("objects.news_unchecked")


async def confirm(cache: ObjectCache, address: Address) -> bool | None:
    """Ask Cloud Storage, as the node, and let old copies go; say whether there were any, None: it does not tell."""
    try:
        pinned = await cache.origin.stat(address, token=NODE_ACCOUNT)
    except NotFound:
        old = old_copies(cache, address, None)
        await forget(cache, address, "deleted")
    except CachedError:
        return None
    else:
        old = old_copies(cache, address, pinned.generation)
        await forget(cache, address, "replaced", before=pinned.generation)
    return bool(old)


async def _settle(cache: ObjectCache, teller: str, address: Address, copies: list[Entry]) -> None:
    if await confirm(cache, address) is None:
        cache.count("objects.news_unconfirmed")
    elif all(cache.tiers.lookup(entry.name) is entry for entry in copies):
        cache.credit.false[teller] += 1
        cache.note("objects.news_false", f"{address} has not changed", node=teller)

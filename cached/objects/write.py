"""Write an object through: Cloud Storage has it before anybody is told so, and nobody reads the old one afterwards."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cached.addresses import Address
from cached.critical import to_the_end
from cached.errors import CachedError, IntegrityFailed, SourceChanged, UsageError
from cached.hands import Hold
from cached.objects.cache import ObjectCache, Pace, Reader, Report
from cached.objects.copies import Filling, Wanted
from cached.objects.neighbours import CHANGED, Changed
from cached.objects.read import forget
from cached.objects.sent import Compare, Sent
from cached.origin.crc import crc32c
from cached.origin.values import Pinned

_PIECE: Final = 1 << 20
#: Largest object that Cloud Storage takes, in bytes ("Quotas & limits").
MOST_BYTES: Final = 5 << 40
#: Seconds that a node gets to say that it has heard of a change.
_HEARD: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How an object is to be written; `if_generation` as in `Origin.put`."""

    if_generation: int | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


async def put(
    cache: ObjectCache,
    reader: Reader,
    address: Address,
    fd: int,
    wish: Wish,
    report: Report | None = None,
) -> Pinned:
    """Store the file `fd` (which stays the caller's) as an object, and keep a copy here if there is room.

    When it returns, Cloud Storage has the object, and every node that answers has been told. Nodes that remember
    permissions for a while (`[objects] freshness`) and do not answer are waited for as long as they may remember.

    Raises `OriginChanged` when the condition does not hold, `SourceChanged` when the file changes meanwhile, and what
    Cloud Storage says to this user.
    """
    sent = Sent()
    size, crc = await cache.hands.read(reader.user, partial(_measured, fd))
    if report is not None:
        report(Pace(0, size))
    try:
        pinned = await cache.origin.put(
            fd,
            size,
            address,
            token=reader.token,
            crc32c=crc,
            if_generation=wish.if_generation,
            content_type=wish.content_type,
            metadata=wish.metadata,
            reading=partial(_by_hand, cache, reader.user, sent),
        )
    except IntegrityFailed as error:
        raise SourceChanged(
            f"{address}: the file changed while it was sent", hint="write it again", **error.details
        ) from error
    finally:
        # It may have been stored although the answer was lost.
        cache.freshness.forget(address.bucket, address.name, cache.now())
    cache.charged(reader.user, reader.scope, {"origin": size}, 1, 1)
    await _tell(cache, pinned)
    try:
        await _keep(cache, reader, pinned, fd, sent)
    except CachedError:
        cache.count("objects.put_not_kept")  # Cloud Storage has it, and that is what was asked for
    if report is not None:
        report(Pace(size, size))
    return pinned


async def _tell(cache: ObjectCache, pinned: Pinned) -> None:
    news = Changed(bucket=pinned.bucket, name=pinned.name, generation=pinned.generation)
    asked = cache.now()
    cache.freshness.forget(news.bucket, news.name, asked)
    await forget(cache, Address(news.bucket, news.name), "replaced", before=news.generation)
    answers = await cache.neighbours.tell(CHANGED, news, _HEARD)
    silent = [node for node, answer in answers.items() if isinstance(answer, CachedError)]
    if cache.freshness.window > 0 and (silent or _unheard(cache)):
        cache.count("objects.waited_for_silent")
        await asyncio.sleep(max(0.0, asked + cache.freshness.window - cache.now()))


def _unheard(cache: ObjectCache) -> bool:
    """Say whether a node that was not told may remember: one that most others see no more does not (`open_now`)."""
    return cache.neighbours.missing(cache.freshness.window) or not cache.neighbours.in_touch()


async def _keep(cache: ObjectCache, reader: Reader, pinned: Pinned, fd: int, sent: Sent) -> None:
    """Keep a copy of what was written; without room, or when the file is not what was sent, there is none."""
    key = cache.key(reader.user, pinned)
    wanted = Wanted(key=key, size=pinned.size, user=reader.user, scope=reader.scope)
    filling = await cache.tiers.reserve(wanted)
    if filling is None:
        return
    try:
        compare = sent.compare(pinned.size)
        crc = await cache.hands.read(reader.user, partial(_copied, fd, filling, compare))
        if crc != pinned.crc32c or not compare.same():
            raise SourceChanged("the file is not what was stored")
    except BaseException as error:
        await to_the_end(cache.tiers.abandon(filling))
        if not isinstance(error, CachedError | OSError):
            raise
        cache.count("objects.put_not_kept")
        return
    entry = await cache.tiers.seal(filling, pinned.crc32c, cache.wall())
    entry.matched = (entry.size, entry.crc32c) == (pinned.size, pinned.crc32c)


async def _by_hand(cache: ObjectCache, user: str, sent: Sent, call: Callable[[], bytes]) -> bytes:
    read = sent.reading(call)
    return await cache.hands.read(user, lambda _: read())


def _measured(fd: int, hold: Hold) -> tuple[int, int]:
    """Return size and checksum of a file."""
    size = os.fstat(fd).st_size
    if size > MOST_BYTES:
        raise UsageError(f"an object has {MOST_BYTES} bytes at most, not {size}")
    crc = at = 0
    while at < size and hold.go_on() and (data := os.pread(fd, min(_PIECE, size - at), at)):
        crc, at = crc32c(data, crc), at + len(data)
    if at != os.fstat(fd).st_size:
        raise SourceChanged("the file changed while it was read", hint="write it again")
    return at, crc


def _copied(fd: int, filling: Filling, compare: Compare, hold: Hold) -> int:
    crc, at, size = 0, 0, filling.wanted.size
    while at < size and hold.go_on() and (data := os.pread(fd, min(_PIECE, size - at), at)):
        with hold.with_others():
            filling.writing.write(data, at)
        compare.add(data)
        crc, at = crc32c(data, crc), at + len(data)
    return crc if at == size else -1

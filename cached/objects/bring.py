"""Bring a copy of an object to this node: once, however many wait for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from cached.critical import to_the_end
from cached.errors import CachedError, IntegrityFailed
from cached.objects.account import Place
from cached.objects.assembly import Assembly
from cached.objects.cache import SHARED_FOR, Flight, Keep, ObjectCache, Pace, Reader, Report
from cached.objects.copies import Copy, Filling, Wanted
from cached.objects.gather import Gathering, gather
from cached.objects.here import matching, open_verified
from cached.objects.key import ObjectKey
from cached.objects.proof import let_go
from cached.origin.crc import crc32c
from cached.origin.values import Pinned
from cached.storage import files

#: Seconds between reports.
_REPORT: Final = 0.5
#: Times that somebody else's failure is put up with.
_ATTEMPTS: Final = 3


async def bring(
    cache: ObjectCache, reader: Reader, pinned: Pinned, key: ObjectKey, keep: Keep, report: Report | None
) -> tuple[dict[Place, int] | None, Copy | None]:
    """Return an open copy, and where its bytes came from if this call brought them; no copy: there is no room.

    Nor is there one where the disk fails: that is told, and costs no reader. Who comes while it is on its way waits for
    it, and tries anew when that failed. Raises what Cloud Storage says to this reader, and `IntegrityFailed`.
    """
    for _ in range(_ATTEMPTS):
        flight, own = _flight(cache, reader, pinned, key, keep)
        try:
            places = await _watched(flight, report)
        except CachedError as error:
            if own and files.is_of_the_disk(error):
                cache.note("objects.store_failed", error.message)
                break
            if own:
                raise
            continue
        if places is None:
            break
        copy = open_verified(cache, key.digest, reader.user)
        if copy is not None and (copy := await matching(cache, copy, pinned)) is not None:
            return (places if own else None), copy
    return None, None


def _flight(
    cache: ObjectCache, reader: Reader, pinned: Pinned, key: ObjectKey, keep: Keep
) -> tuple[Flight[dict[Place, int] | None], bool]:
    name = key.digest
    flight = cache.flights.get(name)
    if flight is not None:
        return flight, False

    def pace(present: int) -> None:
        made.pace = Pace(present, pinned.size)

    made: Flight[dict[Place, int] | None] = Flight(
        _fetch(cache, reader, pinned, key, keep, pace), lambda: _landed(cache, name, made)
    )
    made.pace = Pace(0, pinned.size)
    cache.flights[name] = made
    return made, True


def _landed(cache: ObjectCache, name: str, flight: Flight[dict[Place, int] | None]) -> None:
    if cache.flights.get(name) is flight:
        del cache.flights[name]
    if not flight.task.cancelled():
        flight.task.exception()


async def _watched(flight: Flight[dict[Place, int] | None], report: Report | None) -> dict[Place, int] | None:
    if report is None:
        return await flight.join()
    joined = asyncio.ensure_future(flight.join())
    try:
        while not joined.done():
            report(flight.pace)
            await asyncio.wait({joined}, timeout=_REPORT)
        return joined.result()
    finally:
        if not joined.done():
            joined.cancel()
            await asyncio.wait({joined})


async def _fetch(
    cache: ObjectCache,
    reader: Reader,
    pinned: Pinned,
    key: ObjectKey,
    keep: Keep,
    pace: Callable[[int], None],
) -> dict[Place, int] | None:
    """Make a copy here; return where its bytes came from, or None when no tier has room."""
    wanted = Wanted(key=key, size=pinned.size, user=reader.user, scope=reader.scope, flagged=keep == "memory")
    filling = await cache.tiers.reserve(wanted)
    if filling is None:
        return None
    try:
        places = await _fill(cache, reader, pinned, filling, pace)
    except BaseException:
        await to_the_end(cache.tiers.abandon(filling))
        raise
    await cache.tiers.seal(filling, pinned.crc32c, cache.wall())
    if cache.shared is not None and "origin" in places and pinned.size <= cache.shared.max_value:
        cache.later(share(cache, key))
    return places


async def _fill(
    cache: ObjectCache, reader: Reader, pinned: Pinned, filling: Filling, pace: Callable[[int], None]
) -> dict[Place, int]:
    key = filling.wanted.key
    if await _from_shared(cache, pinned, filling):
        return {"redis": pinned.size}
    assembly = Assembly(key, pinned.size, filling.writing.fd, cache.block)
    job = Gathering(
        assembly=assembly,
        pinned=pinned,
        block=cache.block,
        user=reader.user,
        scope=reader.scope,
        token=reader.token,
        origin=cache.origin,
        neighbours=cache.neighbours,
        count=cache.count,
        arrived=lambda: pace(assembly.bytes_present),
    )
    with cache.homes.shown(assembly):
        await gather(job)
        if assembly.crc() != pinned.crc32c and assembly.sources["peer"]:
            cache.count("objects.peer_corrupt")
            assembly.forget()
            job.alone = True
            await gather(job)
    if assembly.crc() != pinned.crc32c:
        raise IntegrityFailed(
            f"{pinned.address}: the bytes do not have the checksum that Cloud Storage gives",
            hint="try again; if it stays so, the object is damaged",
        )
    return dict(assembly.sources)


async def _from_shared(cache: ObjectCache, pinned: Pinned, filling: Filling) -> bool:
    """Take a small object from the shared tier, if it is there and right."""
    if cache.shared is None or pinned.size > cache.shared.max_value:
        return False
    value = await cache.shared.get(filling.wanted.key.digest)
    if value is None or len(value) != pinned.size or crc32c(value) != pinned.crc32c:
        return False
    await to_the_end(asyncio.to_thread(filling.writing.write, value, 0))
    return True


async def share(cache: ObjectCache, key: ObjectKey) -> None:
    """Put a small copy of this node into the shared tier."""
    copy = open_verified(cache, key.digest, "")
    if copy is None or cache.shared is None:
        return
    try:
        value = await to_the_end(asyncio.to_thread(os.pread, copy.fd, copy.entry.size, 0))
    finally:
        let_go(cache.tiers, copy)
    await cache.shared.set(key.digest, value, SHARED_FOR)

"""Read an object: the generation that Cloud Storage has now, for whom it lets read it, from the nearest copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cached.addresses import Address
from cached.errors import CachedError, Forbidden, NotFound, OriginChanged
from cached.objects.account import Place
from cached.objects.bring import bring
from cached.objects.cache import Keep, ObjectCache, Reader, Report
from cached.objects.copies import Copy
from cached.objects.entry import Entry
from cached.objects.eviction import Reason
from cached.objects.gather import requests
from cached.objects.here import matching, open_copy
from cached.objects.hits import Hit
from cached.objects.key import ObjectKey
from cached.origin.values import Pinned

#: Times that an object may be replaced while it is read before the reader is told so.
_OVERTAKEN: Final = 8


@dataclass(frozen=True, kw_only=True)
class OpenedCopy:
    """An open copy. `fd` is the receiver's; `entry` goes to `Tiers.release` once. Read through: -1 and None."""

    pinned: Pinned
    fd: int
    tier: Place
    entry: Entry | None


def open_now(cache: ObjectCache, reader: Reader, address: Address) -> Copy | None:
    """Open a copy that is here, for a user who has just been allowed it; None: Cloud Storage must be asked.

    `count` is still to be called for it.
    """
    generation = cache.freshness.allowed(
        reader.user, address.bucket, address.name, cache.now(), address.generation
    )
    if generation is None or not cache.neighbours.in_touch():
        return None
    key = ObjectKey(address.bucket, address.name, generation, reader.user if cache.sharing == "owner" else "")
    tiers = cache.tiers
    entry = tiers.lookup(key.digest)
    if entry is None or not (entry.matched and tiers.is_verified(entry)):
        return None
    if not cache.may_hold(reader.user, entry.name, entry.size):
        return None
    return tiers.open(entry.name, reader.user, cache.wall(), touch=False)


def count(cache: ObjectCache, reader: Reader, copy: Copy) -> None:
    """Count a hit and charge its reader; where that changes nothing for others, in a moment."""
    entry, user = copy.entry, reader.user
    if copy.tier == "memory" and entry.users[-1:] == (user,):
        cache.hits.note(Hit(entry, user, reader.scope))
        return
    if entry.held:
        cache.tiers.index.touch(entry, user, cache.wall())
    _note(cache, reader, copy, {copy.tier: entry.size}, hit=True)


async def stat(cache: ObjectCache, reader: Reader, address: Address) -> Pinned:
    """Ask Cloud Storage, as the user, which generation there is.

    Copies of an object that is gone, or of older generations, are let go. Raises `NotFound`, `Forbidden`,
    `OriginChanged` (the generation demanded is gone), `OriginUnavailable`.
    """
    asked = cache.now()
    cache.charged(reader.user, reader.scope, {}, 1, 1)
    try:
        pinned = await cache.origin.stat(address, token=reader.token)
    except CachedError as error:
        cache.freshness.forget(address.bucket, address.name, cache.now())
        if isinstance(error, NotFound) and address.generation is None:
            forget_soon(cache, address, "deleted")
        if isinstance(error, Forbidden) and not reader.token:
            raise Forbidden(
                f"{address}: not everybody may read it, and no access token came with the request",
                hint="set CACHED_GCS_TOKEN_FILE or CACHED_GCS_TOKEN, or log in with gcloud",
            ) from error
        raise
    current = address.generation is None
    if current:
        forget_soon(cache, address, "replaced", before=pinned.generation)
    cache.freshness.remember(
        reader.user, pinned.bucket, pinned.name, pinned.generation, asked, current=current
    )
    return pinned


async def open_object(
    cache: ObjectCache, reader: Reader, address: Address, *, keep: Keep = "auto", report: Report | None = None
) -> OpenedCopy:
    """Open an object as it is now, or the generation that the address names.

    Asks Cloud Storage with the user's token every time, unless the user was allowed it within the freshness window;
    then memory, disk, the shared tier, the other nodes, Cloud Storage. What no tier can hold comes back without a
    descriptor (-1): it is to be read through.

    Raises what `stat` raises, and `IntegrityFailed` when the bytes are not those that Cloud Storage describes.
    """
    copy = open_now(cache, reader, address)
    if copy is not None:
        count(cache, reader, copy)
        return OpenedCopy(pinned=_described(copy.entry), fd=copy.fd, tier=copy.tier, entry=copy.entry)
    for _ in range(_OVERTAKEN):
        pinned = await stat(cache, reader, address)
        try:
            return await open_pinned(cache, reader, pinned, keep=keep, report=report)
        except OriginChanged:
            if address.generation is not None:
                raise
            cache.count("objects.overtaken")
    raise OriginChanged(
        f"{address} was replaced again and again while it was read", hint="pin a generation with #GENERATION"
    )


async def open_pinned(
    cache: ObjectCache, reader: Reader, pinned: Pinned, *, keep: Keep = "auto", report: Report | None = None
) -> OpenedCopy:
    """Open one generation for a user whom Cloud Storage has just allowed it."""
    key = cache.key(reader.user, pinned)
    if not cache.may_hold(reader.user, key.digest, pinned.size):
        cache.count("objects.held_too_much")
        return _through(cache, pinned, counted=keep == "again")
    copy = await open_copy(cache, key.digest, reader.user)
    if copy is not None and (copy := await matching(cache, copy, pinned)) is not None:
        return _served(cache, reader, pinned, copy)
    if keep in ("none", "again"):
        return _through(cache, pinned, counted=keep == "again")
    places, copy = await bring(cache, reader, pinned, key, keep, report)
    return _through(cache, pinned) if copy is None else _served(cache, reader, pinned, copy, brought=places)


async def forget(cache: ObjectCache, address: Address, reason: Reason, *, before: int | None = None) -> None:
    """Let go of all copies of an object, or of the generations older than `before`; who has one open reads on."""
    for entry in old_copies(cache, address, before):
        await cache.tiers.remove(entry, reason)


def forget_soon(cache: ObjectCache, address: Address, reason: Reason, *, before: int | None = None) -> None:
    """Do so in the background, if there is anything to let go."""
    if old_copies(cache, address, before):
        cache.later(forget(cache, address, reason, before=before))


def old_copies(cache: ObjectCache, address: Address, before: int | None) -> list[Entry]:
    """Return all copies of an object, or of the generations older than `before`."""
    copies = cache.tiers.index.of_object(address.bucket, address.name)
    return [entry for entry in copies if before is None or entry.key.generation < before]


def _served(
    cache: ObjectCache,
    reader: Reader,
    pinned: Pinned,
    copy: Copy,
    *,
    brought: dict[Place, int] | None = None,
) -> OpenedCopy:
    parts: dict[Place, int] = brought if brought is not None else {copy.tier: pinned.size}
    _note(cache, reader, copy, parts, hit=brought is None)
    tier: Place = (
        "origin" if "origin" in parts else max(parts, key=lambda place: parts[place], default=copy.tier)
    )
    return OpenedCopy(pinned=pinned, fd=copy.fd, tier=tier, entry=copy.entry)


def _note(cache: ObjectCache, reader: Reader, copy: Copy, parts: dict[Place, int], *, hit: bool) -> None:
    cache.account.served(copy.entry.name, copy.entry.size, parts, cache.now())
    cache.charged(reader.user, reader.scope, parts, requests(parts.get("origin", 0)), 1)
    if hit and copy.tier == "disk":
        cache.later(cache.tiers.promote(copy.entry))


def _through(cache: ObjectCache, pinned: Pinned, *, counted: bool = False) -> OpenedCopy:
    if not counted:
        cache.count("objects.read_through")
    return OpenedCopy(pinned=pinned, fd=-1, tier="origin", entry=None)


def _described(entry: Entry) -> Pinned:
    key = entry.key
    return Pinned(
        bucket=key.bucket, name=key.name, generation=key.generation, size=entry.size, crc32c=entry.crc32c
    )

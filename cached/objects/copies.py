"""What passes in and out of the tiers: a copy that is wanted, one that is being filled, one that is open, and news."""

from __future__ import annotations

from typing import Literal

import msgspec

from cached.objects.admission import Tier
from cached.objects.entry import Entry, copy_name
from cached.objects.eviction import Reason, Source
from cached.objects.key import ObjectKey
from cached.storage.objects import Writing


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that those who count may want to know: a copy came into a tier, left it, or was not let in."""

    what: Literal["admitted", "gone", "refused"]
    #: None for a refusal by all tiers.
    tier: Tier | None
    #: Of one that is gone: why. Else empty; `full` where the file system had less room than the tier's cap, `failed`
    #: where it did not do what was asked.
    reason: Reason | Literal["", "full", "failed"]
    #: None for a refusal.
    entry: Entry | None
    #: Bytes of the file system; of a refusal, of the object.
    bytes: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that somebody is about to fetch."""

    key: ObjectKey
    size: int
    #: Number of the block; None: the whole object.
    block: int | None = None
    #: User id.
    user: str = ""
    scope: str = ""
    source: Source = "origin"
    #: Somebody asked for it to be in memory.
    flagged: bool = False

    @property
    def name(self) -> str:
        """Return the name of the copy."""
        return copy_name(self.key, self.block)


class Filling(msgspec.Struct, frozen=True):
    """Room in a tier, and a file in it to be filled; `Tiers.seal` or `Tiers.abandon` ends it."""

    wanted: Wanted
    tier: Tier
    ticket: str
    writing: Writing
    touches: int

    def entry(self, crc32c: int, now: float, boot: str) -> Entry:
        """Return the entry of the new copy; whoever opens it makes the touch that it was fetched for."""
        wanted = self.wanted
        return Entry(
            name=wanted.name,
            key=wanted.key,
            block=wanted.block,
            size=wanted.size,
            crc32c=crc32c,
            scope=wanted.scope,
            users=(wanted.user,) if wanted.user else (),
            source=wanted.source,
            last_used=now,
            frequency=self.touches - 1,
            boot=boot,
        )


class Copy(msgspec.Struct, frozen=True):
    """An open copy. `fd` is the caller's, who closes it; the entry stays until `Tiers.release`."""

    fd: int
    entry: Entry
    tier: Tier

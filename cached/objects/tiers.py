"""The copies of objects on this node: files in memory and on disk, and the index that says what is where.

Room is reserved before a byte is written, and given back after the file is gone, so that a tier never takes more than
its cap. Names appear in the index when a file is sealed and vanish from it before the file goes: what `open` finds is
whole.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from cached.errors import CachedError, NoSpace, NotFound
from cached.objects.admission import Tier
from cached.objects.copies import Copy, Event, Filling, Wanted
from cached.objects.entry import Entry, Held, Row
from cached.objects.eviction import Reason
from cached.objects.index import Index
from cached.objects.leaving import Leaving
from cached.storage.objects import Found, ObjectStore, Writing
from cached.undisturbed import undisturbed

_ORDER: tuple[Tier, ...] = ("memory", "disk")
#: Copies that move up at a time; what is hit meanwhile moves up another time.
MOVING = 4

__all__ = ["Copy", "Event", "Filling", "Tiers", "Wanted"]


class Tiers:
    """Memory and disk for copies of objects, whichever of them the node has."""

    def __init__(
        self,
        stores: Mapping[Tier, ObjectStore],
        caps: Mapping[Tier, int],
        boot: str,
        observe: Callable[[Event], None] = lambda _: None,
        headroom: Callable[[Tier], int] = lambda _: sys.maxsize,
    ) -> None:
        """Use `stores` for up to `caps` bytes each; `boot` is the id of this boot, `observe` must not raise.

        `headroom` says how many bytes may still be written where a tier lies, whatever its cap: others need room too.
        """
        self._headroom = headroom
        self._stores = dict(stores)
        self.index = Index({tier: caps[tier] for tier in _ORDER if tier in stores})
        self.boot = boot
        self._observe = observe
        self._serial = itertools.count()
        self._locks = {tier: asyncio.Lock() for tier in stores}
        #: Bytes of files that are being made, by ticket: what `headroom` still counts as free.
        self._coming: dict[Tier, dict[str, int]] = {tier: {} for tier in stores}
        self._moving: set[str] = set()
        #: Copies that are no longer in the index, but still open: their room is taken until they are closed.
        self._leaving = Leaving(self._stores, self.index.rooms)

    # Reading

    def lookup(self, name: str) -> Entry | None:
        """Return what is here under a name."""
        return self.index.get(name)

    def open(self, name: str, user: str, now: float, *, touch: bool = True) -> Copy | None:
        """Open the best copy under a name and keep it from going until `release`; None: there is none.

        `now`: wall clock, seconds. Without `touch` it does not count as a use: for parts of something large. A copy
        that is not `verified` in this boot has to be compared with its checksum.
        """
        entry = self.index.get(name)
        if entry is None:
            return None
        for tier in _ORDER:
            if tier not in entry.held:
                continue
            try:
                fd = self._stores[tier].open(name)
            except NotFound:
                held = self._detach(entry, tier, "lost")
                self.index.rooms[tier].drop(held.ticket)
                continue
            if touch:
                self.index.touch(entry, user, now)
            entry.pins += 1
            return Copy(fd, entry, tier)
        return None

    def release(self, entry: Entry) -> None:
        """End what `open` began, after the descriptor is closed."""
        entry.pins -= 1
        if entry.pins == 0:
            self._leaving.closed(entry)

    def is_open(self, name: str) -> bool:
        """Say whether somebody has a copy open, pin or not; blocks for some microseconds."""
        entry = self.index.get(name)
        here = entry is not None and any(self._stores[tier].is_open(name) for tier in entry.held)
        return here or self._leaving.is_open(name)

    def leaving(self) -> list[Path]:
        """Return the files of copies that are gone, but open."""
        return self._leaving.files()

    async def reap(self) -> None:
        """Give back the room of what nobody has open any more."""
        await self._leaving.reap()
        for entry in [one for one in self.index if one.borrowed]:
            entry.borrowed = self.is_open(entry.name)

    def is_verified(self, entry: Entry) -> bool:
        """Say whether the checksum was found right in this boot."""
        return entry.boot == self.boot

    def verified(self, entry: Entry) -> None:
        """Note that the checksum was found right."""
        if entry.boot != self.boot:
            entry.boot = self.boot
            self.index.changed(entry.name)

    async def promote(self, entry: Entry) -> bool:
        """Copy what is on disk into memory if it belongs there and others make room; return whether it was done."""
        busy = entry.name in self._moving or len(self._moving) >= MOVING
        if busy or not self.is_verified(entry) or not self.index.belongs_up(entry):
            return False
        return await self._copy(entry, "disk", "memory")

    # Writing

    async def reserve(self, wanted: Wanted, tier: Tier | None = None) -> Filling | None:
        """Make room and a file for a copy in the best tier, or in `tier`; None: read it through.

        Copies that are worth less go for it. It counts as a use of what is wanted.
        """
        touches = self.index.missed(wanted.name)
        for one in self.index.choose(wanted.size, touches, flagged=wanted.flagged):
            try:
                if tier in (None, one) and (filling := await self._begin(wanted, one, touches)) is not None:
                    return filling
            except CachedError:
                self._observe(Event(what="refused", tier=one, reason="failed", entry=None, bytes=wanted.size))
        self._observe(Event(what="refused", tier=tier, reason="", entry=None, bytes=wanted.size))
        return None

    async def seal(self, filling: Filling, crc32c: int, now: float) -> Entry:
        """Take in a copy whose bytes are all there and whose checksum was compared; `now`: wall clock, seconds.

        Open it before the next `await`, or it may be gone. Raises `IntegrityFailed` for a file of another size.
        """
        entry = self.index.get(filling.wanted.name) or filling.entry(crc32c, now, self.boot)
        return self._settle(entry, filling.tier, filling.ticket, filling.writing)

    async def abandon(self, filling: Filling) -> None:
        """Remove a file that will not be sealed, and give its room back."""

        def give(_: None) -> None:
            self.index.rooms[filling.tier].cancel(filling.ticket)

        await undisturbed(partial(self._stores[filling.tier].discard, filling.writing), give)
        give(None)

    # Removing

    async def remove(self, entry: Entry, reason: Reason) -> int:
        """Remove a copy from all tiers; return the bytes that come back, when its readers are done.

        One whose file the disk does not let go of is given to nobody any more; its room is taken until the next start.
        """
        given = 0
        for tier in list(entry.held):
            try:
                given += await self._drop(entry, tier, reason)
            except CachedError:
                if tier in entry.held:
                    self._detach(entry, tier, reason)
        return given

    async def clear(
        self, matches: Callable[[Entry], bool], reason: Reason, user: str | None = None
    ) -> tuple[int, int]:
        """Remove all copies that match; return how many, and their bytes.

        With `user`, only those that no other user is known to have read; with the others, just the user is forgotten.
        What is being fetched at this moment is not affected.
        """
        count = given = 0
        for entry in [entry for entry in self.index if matches(entry)]:
            if user is not None:
                if user not in entry.users:
                    continue
                entry.users = tuple(one for one in entry.users if one != user)
                self.index.changed(entry.name)
                if entry.users:
                    continue
            given += await self.remove(entry, reason)
            count += 1
        return count, given

    def taken(self, tier: Tier) -> int:
        """Return the bytes of a tier that copies take, or are being written to."""
        room = self.index.rooms.get(tier)
        return 0 if room is None else room.used + room.reserved

    async def give_way(self, tier: Tier, size: int) -> int:
        """Let copies of a tier go until others have `size` bytes more; return the bytes that come back."""
        given = 0
        if tier in self._stores:
            for entry in self.index.least(tier, size):
                given += await self._drop(entry, tier, "room") if tier in entry.held and not entry.pins else 0
        return given

    # Over restarts

    def entries(self) -> list[Row]:
        """Return all that outlives the daemon."""
        return [entry.row for entry in self.index]

    def survey(self) -> dict[Tier, dict[str, Found]]:
        """Look for files, and remove unfinished ones; blocks. For the start, before anything is reserved."""
        return {tier: store.survey() for tier, store in self._stores.items()}

    async def load(self, rows: Iterable[Row], present: Mapping[Tier, Mapping[str, Found]]) -> None:
        """Take in what was written down and is present; remove files that nobody knows, or that no longer fit.

        What was used last is taken in first. What of `rows` is not taken in counts as changed.
        """
        newest = sorted(rows, key=lambda row: row.last_used, reverse=True)
        known = {row.name: Entry.of(row) for row in newest}
        fit: list[tuple[Entry, Tier, Held]] = []
        for tier, found in present.items():
            room, gone = self.index.rooms[tier], set(found)
            for entry in known.values():
                file = found.get(entry.name)
                if file is None or file.size != entry.size:
                    continue
                held = Held(self._ticket(entry.name), file.allocated)
                if room.adopt(held.ticket, file.allocated):
                    fit.append((entry, tier, held))
                    gone.discard(entry.name)
            for name in sorted(gone):
                await asyncio.to_thread(self._stores[tier].remove, name)
                reason: Reason = "smaller" if name in known else "unknown"
                self._gone(tier, reason, known.get(name), found[name].allocated)
        for entry, tier, held in sorted(fit, key=lambda one: one[0].last_used):
            self.index.keep(entry, tier, held)
        self.index.take_changed()
        self.index.changed(*(name for name in known if self.index.get(name) is None))

    # How

    async def _begin(self, wanted: Wanted, tier: Tier, touches: int) -> Filling | None:
        make = partial(self._stores[tier].create, wanted.name, wanted.size)
        made = await self._write(wanted.name, wanted.size, tier, None, make)
        return None if made is None else Filling(wanted, tier, made[0], made[1], touches)

    async def _write(
        self, name: str, size: int, tier: Tier, rival: Entry | None, make: Callable[[], Writing]
    ) -> tuple[str, Writing] | None:
        """Reserve room, then make a file; None when there is no room for it, in the tier or on the file system."""
        room, store, ticket = self.index.rooms[tier], self._stores[tier], self._ticket(name)

        def fail() -> None:
            self._coming[tier].pop(ticket, None)
            room.cancel(ticket)

        def undo(writing: Writing) -> None:
            store.discard(writing)
            fail()

        try:
            if not await self._make_room(ticket, tier, size, rival):
                fail()
                return None
        except BaseException:
            fail()
            raise
        try:
            writing = await undisturbed(make, undo, fail)
        except NoSpace:
            self._observe(Event(what="refused", tier=tier, reason="full", entry=None, bytes=size))
            return None
        self._coming[tier].pop(ticket, None)
        if not room.resize(ticket, writing.allocated):
            undo(writing)
            return None
        return ticket, writing

    async def _make_room(self, ticket: str, tier: Tier, size: int, rival: Entry | None) -> bool:
        room, coming = self.index.rooms[tier], self._coming[tier]
        if self._short(tier, size) <= 0 and room.reserve(ticket, size):
            coming[ticket] = size
            return True
        async with self._locks[tier]:
            short = self._short(tier, size)
            coming[ticket] = size  # nobody else takes what gives way for this
            if short > 0 and await self.give_way(tier, short) < short:
                return False
            while not room.reserve(ticket, size):
                victims = self.index.victims(tier, size, rival)
                if victims is None:
                    return False
                for victim in victims:
                    await self._evict(victim, tier)
        return True

    def _short(self, tier: Tier, size: int) -> int:
        """Return the bytes missing where a tier lies, when all that was promised is written, and `size` more."""
        return size + sum(self._coming[tier].values()) - self._headroom(tier)

    async def _evict(self, entry: Entry, tier: Tier) -> None:
        """Let a copy go from a tier; what leaves memory goes down to disk if it is worth it there."""
        if tier in entry.held and not entry.pins and self._stores[tier].is_open(entry.name):
            entry.borrowed = True  # its room would not come back
            return
        if tier == "memory" and "disk" not in entry.held and "disk" in self._stores:
            await self._copy(entry, "memory", "disk")
        if not entry.pins and tier in entry.held:
            await self._drop(entry, tier, "room" if len(entry.held) == 1 else "twin")

    async def _copy(self, entry: Entry, source: Tier, goal: Tier) -> bool:
        """Copy a file to the other tier, where only what is worth less makes room; the old one stays."""
        reader, writer = self._stores[source], self._stores[goal]
        self._moving.add(entry.name)
        entry.pins += 1
        try:
            made = await self._write(
                entry.name, entry.size, goal, entry, partial(_copied, reader, writer, entry.name, entry.size)
            )
            if made is None:
                return False
            ticket, writing = made
            if self.index.get(entry.name) is entry:
                return goal in self._settle(entry, goal, ticket, writing).held
            writer.discard(writing)  # it was removed meanwhile
            self.index.rooms[goal].cancel(ticket)
            return False
        except CachedError:
            return False
        finally:
            self._moving.discard(entry.name)
            self.release(entry)

    def _settle(self, entry: Entry, tier: Tier, ticket: str, writing: Writing) -> Entry:
        """Seal a file and take it into the index, in one step; without room after all, the entry lies nowhere.

        A few quick system calls, not in a thread: names and index always say the same.
        """
        room, store = self.index.rooms[tier], self._stores[tier]
        if tier in entry.held:  # two were written at once, with the same bytes
            store.discard(writing)
            room.cancel(ticket)
            return entry
        try:
            found = store.seal(writing)
        except BaseException:
            room.cancel(ticket)
            raise
        if room.commit(ticket, ticket, found.allocated):
            self.index.keep(entry, tier, Held(ticket, found.allocated))
            self._observe(Event(what="admitted", tier=tier, reason="", entry=entry, bytes=found.allocated))
        else:
            store.remove(entry.name)
            room.cancel(ticket)
        return entry

    async def _drop(self, entry: Entry, tier: Tier, reason: Reason) -> int:
        """Take a copy from a tier: out of sight at once, then the file, then its room."""
        if tier not in entry.held:
            return 0
        store = self._stores[tier]
        doomed = store.retire(entry.name)
        held = self._detach(entry, tier, reason)
        if doomed is None:
            self.index.rooms[tier].drop(held.ticket)
        else:
            await self._leaving.end(doomed, entry, tier, held)
        return held.allocated

    def _detach(self, entry: Entry, tier: Tier, reason: Reason) -> Held:
        held = self.index.detach(entry, tier, remember=reason == "room")
        self._gone(tier, reason, entry, held.allocated)
        return held

    def _gone(self, tier: Tier, reason: Reason, entry: Entry | None, allocated: int) -> None:
        self._observe(Event(what="gone", tier=tier, reason=reason, entry=entry, bytes=allocated))

    def _ticket(self, name: str) -> str:
        return f"{name}#{next(self._serial)}"


def _copied(reader: ObjectStore, writer: ObjectStore, name: str, size: int) -> Writing:
    source = reader.open(name)
    try:
        return writer.copy(source, name, size)
    finally:
        os.close(source)

"""Tiers in temporary directories, with bytes that tell which object they are."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cached.objects.entry import Entry
from cached.objects.key import ObjectKey
from cached.objects.tiers import Copy, Event, Tiers, Wanted
from cached.storage.objects import ObjectStore

KB = 1024


def waited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def key(name: str, generation: int = 1) -> ObjectKey:
    return ObjectKey("bucket", name, generation)


def content(name: str, size: int) -> bytes:
    return (name.encode() * (size // len(name) + 1))[:size]


class Shelves:
    """Tiers, what happened in them, and jobs that read."""

    def __init__(self, root: Path, memory: int | None, disk: int | None, boot: str = "boot") -> None:
        self.root = root
        self.caps = {tier: cap for tier, cap in (("memory", memory), ("disk", disk)) if cap is not None}
        self.events: list[Event] = []
        self.start(boot)

    def start(self, boot: str) -> None:
        self.stores = {tier: ObjectStore(self.root / tier) for tier in self.caps}
        self.tiers = Tiers(self.stores, self.caps, boot, self.events.append)

    async def restart(self, boot: str = "boot", rows: list | None = None) -> None:
        rows = self.tiers.entries() if rows is None else rows
        self.start(boot)
        await self.tiers.load(rows, self.tiers.survey())

    async def fetch(self, name: str, size: int, *, user: str = "ada", **wishes: object) -> Entry | None:
        """Put an object in, as if it came from the origin."""
        filling = await self.tiers.reserve(Wanted(key=key(name), size=size, user=user, **wishes))
        if filling is None:
            return None
        filling.writing.write(content(name, size), 0)
        return await self.tiers.seal(filling, crc32c=size, now=1.0)

    def open(self, name: str, user: str = "ada", now: float = 2.0) -> Copy | None:
        return self.tiers.open(key(name).digest, user, now)

    def close(self, copy: Copy) -> None:
        os.close(copy.fd)
        self.tiers.release(copy.entry)

    async def read(self, name: str, size: int, user: str = "ada", **wishes: object) -> str:
        """Read an object as a job does; return where it was: `memory`, `disk`, `origin`, or `through`."""
        copy = self.open(name, user)
        where = copy.tier if copy else "origin"
        if copy is None:
            if await self.fetch(name, size, user=user, **wishes) is None:
                return "through"
            copy = self.open(name, user)
            assert copy is not None
        assert os.pread(copy.fd, size + 1, 0) == content(name, copy.entry.size)
        self.close(copy)
        await self.tiers.promote(copy.entry)
        return where

    def where(self, name: str) -> set[str]:
        entry = self.tiers.lookup(key(name).digest)
        return set(entry.held) if entry else set()

    def taken(self, tier: str) -> int:
        """Return what the file system gave to the files of a tier."""
        found = {}
        for one in list(self.stores[tier].path.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # threads go on while this looks
                status = one.stat()
                found[status.st_ino] = status.st_blocks * 512
        return sum(found.values())

    def news(self) -> list[tuple[str, str | None, str]]:
        found = [(event.what, event.tier, event.reason) for event in self.events]
        self.events.clear()
        return found

    def check(self) -> None:
        """Caps hold, by count and by the file system; the index and the directories say the same."""
        for tier, room in self.tiers.index.rooms.items():
            assert room.used + room.reserved <= room.cap
            assert self.taken(tier) <= room.used + room.reserved

    def check_idle(self) -> None:
        self.check()
        for tier, store in self.stores.items():
            held = {entry.name: entry.size for entry in self.tiers.index if tier in entry.held}
            leaving = {path.name for path in self.tiers.leaving() if path.parent == store.path}
            there = {one.name: one.stat().st_size for one in store.path.iterdir()}
            assert {name: size for name, size in there.items() if name not in leaving} == held
            assert leaving <= set(there)
            assert self.tiers.index.rooms[tier].reserved == 0

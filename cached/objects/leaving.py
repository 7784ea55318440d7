"""Copies that left the index while somebody has them open: each keeps its room until the last descriptor is closed.

Who reads holds a pin, which the node knows of; but a descriptor, or memory mapped from it, may outlive the pin. Then
the bytes are still there, and nobody else may be promised their room. The kernel says whether a file is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from cached.objects.admission import Tier
from cached.objects.entry import Entry, Held
from cached.objects.room import Room
from cached.storage.objects import ObjectStore
from cached.undisturbed import undisturbed


class _File(msgspec.Struct, frozen=True):
    name: str
    tier: Tier
    ticket: str


class Leaving:
    """The files on their way out of the tiers."""

    def __init__(self, stores: Mapping[Tier, ObjectStore], rooms: Mapping[Tier, Room]) -> None:
        self._stores = stores
        self._rooms = rooms
        self._files: dict[Path, _File] = {}
        #: Those whose copies are pinned, by copy.
        self._pinned: dict[int, list[Path]] = {}
        #: Work that nobody waits for.
        self._ending: set[asyncio.Task[bool]] = set()

    async def end(self, doomed: Path, entry: Entry, tier: Tier, held: Held) -> bool:
        """Remove a retired file and give its room back; False: later, when its readers are done."""
        self._files[doomed] = _File(entry.name, tier, held.ticket)
        if entry.pins:
            self._pinned.setdefault(id(entry), []).append(doomed)
            return False
        return await self._erase(doomed)

    def closed(self, entry: Entry) -> None:
        """Take in that a copy is not pinned any more."""
        for doomed in self._pinned.pop(id(entry), ()):
            task = asyncio.get_running_loop().create_task(self._erase(doomed))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def files(self) -> list[Path]:
        """Return what is on its way out."""
        return list(self._files)

    async def reap(self) -> None:
        """Remove the files that nobody has open any more."""
        pinned = {doomed for files in self._pinned.values() for doomed in files}
        for doomed in [one for one in self._files if one not in pinned]:
            await self._erase(doomed)

    def is_open(self, name: str) -> bool:
        """Say whether somebody has a file of that name open that has left; blocks for some microseconds."""
        return any(
            self._stores[file.tier].is_open(doomed)
            for doomed, file in self._files.items()
            if file.name == name
        )

    async def _erase(self, doomed: Path) -> bool:
        file = self._files.get(doomed)
        if file is None:
            return True
        store = self._stores[file.tier]
        # A file that cannot be removed is found at the next start; its room is not lost until then.
        gone: bool = await undisturbed(
            partial(store.erase_closed, doomed),
            partial(self._over, doomed),
            partial(self._over, doomed, True),
        )
        self._over(doomed, gone)
        return gone

    def _over(self, doomed: Path, gone: bool) -> None:
        file = self._files.pop(doomed, None) if gone else None
        if file is not None:
            self._rooms[file.tier].drop(file.ticket)

"""The index of copies outlives the daemon: what is here is written down now and then, and looked for at the start.

Copies are no promise: a crash forgets the latest, whose files are removed at the next start.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from cached.catalog.rows import ObjectRow
from cached.catalog.tx import Tx
from cached.node.node import Node
from cached.objects.entry import Row

log = logging.getLogger("cached")

#: Seconds between notes.
EVERY = 5.0


async def load(node: Node) -> None:
    """Take in the copies that were here before, of which the files are there."""
    found = await asyncio.to_thread(node.objects.tiers.survey)
    rows = []
    for row in await node.catalog.read(lambda tx: tx.objects()):
        try:
            rows.append(msgspec.json.decode(row.entry, type=Row))
        except msgspec.MsgspecError:
            log.warning("objects.entry_unreadable name=%s", row.name)
    await node.objects.tiers.load(rows, found)


class Notes:
    """What of the index is written down."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._written: dict[str, bytes] = {}

    async def run(self) -> None:
        """Write down what changes, until cancelled, and then once more."""
        self._written = {
            row.name: row.entry for row in await self._node.catalog.read(lambda tx: tx.objects())
        }
        try:
            while True:
                await self.write()
                await asyncio.sleep(EVERY)
        finally:
            await self.write()

    async def write(self) -> None:
        """Write down what has changed since."""
        rows = {row.name: msgspec.json.encode(row) for row in self._node.objects.tiers.entries()}
        gone = self._written.keys() - rows.keys()
        new = {name: entry for name, entry in rows.items() if self._written.get(name) != entry}
        if not gone and not new:
            return

        def note(tx: Tx) -> None:
            for name in gone:
                tx.delete_object(name)
            for name, entry in new.items():
                tx.put_object(ObjectRow(name=name, entry=entry))

        await self._node.catalog.write(note)
        self._written = rows

"""The index of copies outlives the daemon: what is here is written down now and then, and looked for at the start.

Copies are no promise: a crash forgets the latest, whose files are removed at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

import msgspec

from cached.catalog.rows import ObjectRow
from cached.catalog.tx import Tx
from cached.errors import CachedError
from cached.node.node import Node
from cached.objects.entry import Row
from cached.objects.index import Index

log = logging.getLogger("cached")

#: Seconds between notes.
EVERY: Final = 5.0
#: Copies written down before others get their turn.
AT_ONCE: Final = 200


async def load(node: Node) -> None:
    """Take in the copies that were here before, of which the files are there."""
    tiers = node.objects.tiers
    found = await asyncio.to_thread(tiers.survey)
    rows, unreadable = [], []
    for row in await node.catalog.read(lambda tx: tx.objects()):
        try:
            rows.append(msgspec.json.decode(row.entry, type=Row))
        except msgspec.MsgspecError:
            log.warning("objects.entry_unreadable name=%s", row.name)
            unreadable.append(row.name)
    await tiers.load(rows, found)
    tiers.index.changed(*unreadable)


async def run(node: Node) -> None:
    """Write down what changes, until cancelled, and then once more."""
    try:
        while True:
            await _try(node)
            await asyncio.sleep(EVERY)
    finally:
        await _try(node)


async def write(node: Node) -> None:
    """Write down what has changed since. Raises what the catalog raises; then it is written down the next time."""
    index = node.objects.tiers.index
    names = index.take_changed()
    try:
        while names:
            await node.catalog.write(partial(_note, _rows(index, names[-AT_ONCE:])))
            del names[-AT_ONCE:]
    finally:
        index.changed(*names)


async def _try(node: Node) -> None:
    try:
        await write(node)
        await node.objects.reap()
    except CachedError as error:
        node.counters.note("objects.index_failed", error.message)
    except Exception as error:  # noqa: BLE001 - what changes is written down again in five seconds, whatever it was
        node.counters.background_failed("object index", error)


def _rows(index: Index, names: list[str]) -> dict[str, bytes | None]:
    """Return what is to be written down by name; None: it is gone."""
    here = ((name, index.get(name)) for name in names)
    return {name: None if entry is None else msgspec.json.encode(entry.row) for name, entry in here}


def _note(rows: dict[str, bytes | None], tx: Tx) -> None:
    for name, entry in rows.items():
        if entry is None:
            tx.delete_object(name)
        else:
            tx.put_object(ObjectRow(name=name, entry=entry))

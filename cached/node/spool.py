"""Bytes on their way to Cloud Storage, in files without a name: their space is reserved before they are written."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from functools import partial

from cached.catalog.rows import ReservationRow
from cached.critical import to_the_end
from cached.node.node import Node
from cached.node.space import Space
from cached.storage import files
from cached.undisturbed import undisturbed


class Spooled:
    """An empty file for reading and writing, `descriptor`, and how much may be written to it."""

    def __init__(self, space: Space, txid: str, descriptor: int) -> None:
        self._space = space
        self._txid = txid
        self._size = 0
        self.descriptor = descriptor

    async def make_room(self, size: int) -> None:
        """See that the file can have so many bytes in all, and gives them blocks. Raises `NoSpace`."""
        if size > self._size:
            await self._space.grow(self._txid, size)
            await to_the_end(asyncio.to_thread(files.allocate, self.descriptor, size))
            self._space.cover(self._txid, os.fstat(self.descriptor).st_blocks * 512)
            self._size = size


@contextlib.asynccontextmanager
async def spooled(node: Node, owner: str, size: int, *, fairly: bool = False) -> AsyncIterator[Spooled]:
    """Give a file with room for `size` bytes, or more as it grows; it is gone with the context, and with the daemon.

    `fairly`: other users have to find room for theirs. Raises `NoSpace` and `Busy` before anything is written.
    """
    row = ReservationRow(txid=node.new_id(), purpose="spool", tier="disk", bytes=size, owner=owner)
    await node.space.reserve(row, fairly=fairly)
    try:
        folder = node.stores["disk"].root / "incoming"
        descriptor = await undisturbed(partial(files.open_spool, folder), os.close)
        try:
            with files.translated(folder):
                file = Spooled(node.space, row.txid, descriptor)
                await file.make_room(size)
            yield file
        finally:
            os.close(descriptor)
    finally:
        await to_the_end(node.space.release(row.txid))

"""Unpacking: the small files of a pack are made while the rest of it comes.

To make a hundred thousand files takes longer than a fast link takes to bring them, and on a slow one nothing of it is
left to be waited for when the last byte comes. What libtorrent has found to be right may still be on its way into the
file: each file is checked before it is made, and a batch that is not right yet is left for the end, when all is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cached.critical import end, to_the_end
from cached.errors import CachedError, IntegrityFailed
from cached.replication import pack as packs
from cached.replication.layout import Layout
from cached.replication.pack import Batch
from cached.replication.torrent import Torrent
from cached.replication.transfer import FetchJob

log = logging.getLogger(__name__)

#: It is looked for what has come this often, in seconds; so many batches are made before the next look.
LOOK: Final = 0.1
_AT_ONCE: Final = 4


@contextlib.asynccontextmanager
async def beside(torrent: Torrent, pack: Path, job: FetchJob) -> AsyncIterator[list[Batch]]:
    """Make files of what has come of the pack while the block runs; give the batches that are left for afterwards."""
    if torrent.layout.pack is None:
        yield []
        return
    left = await asyncio.to_thread(lambda: list(packs.batches(job.manifest)))
    following = asyncio.ensure_future(_follow(torrent, pack, job, left))
    try:
        yield left
    finally:
        await to_the_end(end(following))  # nothing is written any more, whoever else is in a hurry


async def _follow(torrent: Torrent, pack: Path, job: FetchJob, left: list[Batch]) -> None:
    waiting, seen, size = list(left), 0, left[-1].at + left[-1].size
    while waiting:
        await asyncio.sleep(LOOK)
        if torrent.have == seen:
            continue
        seen = torrent.have
        come = _come(torrent.layout, seen, size, waiting)
        for at in range(0, len(come), _AT_ONCE):
            try:
                await to_the_end(asyncio.to_thread(_make, pack, job, come[at : at + _AT_ONCE], left))
            except CachedError as error:
                log.debug("%s is unpacked once all of it is there: %s", job.content, error.message)
                return
            except Exception:
                log.exception("%s is unpacked once all of it is there", job.content)
                return
        tried = set(come)
        waiting = [batch for batch in waiting if batch not in tried]


def _come(layout: Layout, have: int, size: int, waiting: list[Batch]) -> list[Batch]:
    """Return the batches of a pack of `size` bytes of which all pieces are there; the pack's pieces are the last."""
    first = len(layout.piece_sizes) - -(-size // layout.piece_size)
    there = f"{have >> first:b}"[::-1]

    def whole(batch: Batch) -> bool:
        begin, stop = batch.at // layout.piece_size, -(-(batch.at + batch.size) // layout.piece_size)
        return len(there) >= stop and there.find("0", begin, stop) < 0

    return [batch for batch in waiting if whole(batch)]


def _make(pack: Path, job: FetchJob, come: list[Batch], left: list[Batch]) -> None:
    for batch in come:
        with contextlib.suppress(IntegrityFailed):
            packs.unpack(pack, job, [batch])
            left.remove(batch)

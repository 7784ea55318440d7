"""Read an object through: its bytes come from Cloud Storage and are kept nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from cached.errors import OriginChanged
from cached.objects.cache import ObjectCache, Reader
from cached.origin.values import Pinned

#: Bytes of one piece.
_PIECE: Final = 4 << 20


async def read_through(
    cache: ObjectCache, reader: Reader, pinned: Pinned, start: int, stop: int
) -> AsyncIterator[bytes]:
    """Yield a range of the bytes from Cloud Storage, one piece ahead of the reader, and keep none of them.

    The range with the first byte counts as the read, so that reading on by further ranges is one read.
    """
    starts = range(start, min(stop, pinned.size), _PIECE)
    coming: asyncio.Task[bytes] | None = None
    sent = 0
    try:
        for at in starts:
            piece = coming or asyncio.create_task(_piece(cache, reader, pinned, at, stop))
            data = await piece
            following = at + _PIECE
            coming = (
                asyncio.create_task(_piece(cache, reader, pinned, following, stop))
                if following < min(stop, pinned.size)
                else None
            )
            sent += len(data)
            cache.charged(reader.user, reader.scope, {"origin": len(data)}, 1, 1)
            yield data
    finally:
        if sent:
            digest = cache.key(reader.user, pinned).digest
            cache.account.served(digest, pinned.size, {"origin": sent}, cache.now(), 0 if start else 1)
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})


async def _piece(cache: ObjectCache, reader: Reader, pinned: Pinned, at: int, stop: int) -> bytes:
    end = min(at + _PIECE, stop, pinned.size)
    data = await cache.origin.read(pinned, at, end, token=reader.token)
    if len(data) != end - at:
        raise OriginChanged(f"{pinned.address}: {len(data)} bytes came of {end - at}")
    return data

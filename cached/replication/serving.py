"""The sending end of the direct method: the leaves that a peer asks for, as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cached.errors import NotFound, UsageError
from cached.replication.at_hand import AtHand
from cached.replication.files import read_blocks
from cached.replication.segments import LeafLine, Range, merged
from cached.replication.transfer import Allowed, Peer
from cached.sets.manifest import Manifest

#: Name of the stream on the link.
STREAM = "content"
#: Ranges in one request, at most.
MOST_RANGES = 1000
#: Up to so many entries a manifest is worked through on the event loop.
FEW = 64

_BLOCK = 2 * 1024 * 1024


class Writer(Protocol):
    """The sending end of a stream, as `cached.peers` hands it over."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the receiver is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A content of this node that may be streamed."""

    manifest: Manifest
    #: Opens the directory of its files; the descriptor is closed by the server.
    open_dir: Callable[[], int]
    #: Paths of files that are damaged here: whoever asks for bytes of one is told that they are not here.
    withheld: frozenset[str] = frozenset()
    #: More of it is still to come: what is read now may be something else in a moment.
    coming: bool = False


class DirectServer:
    """The sending end: `link.stream(STREAM, server.serve)`."""

    def __init__(
        self,
        *,
        lookup: Callable[[str], Awaitable[Served | None]],
        allowed: Allowed = lambda _peer, _content: True,
    ) -> None:
        self._lookup = lookup
        self._allowed = allowed
        #: Payload bytes sent, by content.
        self.sent: dict[str, int] = {}
        self._at_hand = AtHand()

    def gave(self, content: str, size: int) -> None:
        """Count payload bytes that were sent."""
        self.sent[content] = self.sent.get(content, 0) + size

    async def serve(self, peer: Peer, query: dict[str, Any], writer: Writer) -> None:
        """Send what the query asks for; raise `NotFound` when it is not here, or not for this peer."""
        content, ranges = _parse(query)
        served = await self._lookup(content) if self._allowed(peer.node_id, content) else None
        if served is None:
            raise NotFound("no such content here")
        few = len(served.manifest.entries) <= FEW
        line = LeafLine(served.manifest) if few else await asyncio.to_thread(LeafLine, served.manifest)
        try:
            line.check(ranges)
        except ValueError as error:
            raise UsageError(f"the content has {error}") from None
        damaged = len(served.withheld) > 0 and await asyncio.to_thread(_is_withheld, served, line, ranges)
        if damaged:
            raise NotFound("these bytes are damaged here")
        if few and line.bytes_in(ranges) <= _BLOCK:
            await self._send(content, await self._little(content, served, line, ranges), writer)
            return
        blocks = read_blocks(served.open_dir, line.segments(ranges), _BLOCK)
        reading: asyncio.Task[bytes] | None = None
        try:
            reading = asyncio.create_task(asyncio.to_thread(next, blocks, b""))
            while block := await asyncio.shield(reading):
                reading = asyncio.create_task(asyncio.to_thread(next, blocks, b""))  # while this one is sent
                await self._send(content, block, writer)
        finally:
            if reading is not None:
                await asyncio.wait([reading])
                reading.exception()
            blocks.close()

    async def _little(self, content: str, served: Served, line: LeafLine, ranges: list[Range]) -> bytes:
        """Return few bytes, read at once; those that several ask for at the same time are read for all of them."""
        read = partial(_read_at_once, served, line, ranges)
        if served.coming:
            return await asyncio.to_thread(read)
        return await self._at_hand.get((content, served.withheld, ranges), read)

    async def _send(self, content: str, block: bytes, writer: Writer) -> None:
        await writer.write(block)
        self.gave(content, len(block))


def _is_withheld(served: Served, line: LeafLine, ranges: list[Range]) -> bool:
    return any(segment.path in served.withheld for segment in line.segments(ranges))


def _read_at_once(served: Served, line: LeafLine, ranges: list[Range]) -> bytes:
    return b"".join(read_blocks(served.open_dir, line.segments(ranges), _BLOCK))


def _parse(query: dict[str, Any]) -> tuple[str, list[Range]]:
    try:
        content = query["content"]
        ranges = [(int(first), int(end)) for first, end in query["ranges"]]
    except (KeyError, TypeError, ValueError):
        raise UsageError("a direct fetch needs content and ranges") from None
    if not isinstance(content, str) or len(ranges) > MOST_RANGES:
        raise UsageError("a direct fetch needs content and few ranges")
    return content, merged(ranges)

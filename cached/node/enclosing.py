"""Enclosing: what travels with an offer, so that a small set costs one exchange (ADR 23, 24)."""

from __future__ import annotations

import asyncio
import contextlib

from cached.errors import CachedError
from cached.node import metadata
from cached.node.joined import CONTENT, Enclosed
from cached.node.node import Node
from cached.node.shelf import Known
from cached.replication.files import read_blocks
from cached.replication.segments import LeafLine
from cached.sets import coarse as coarsely
from cached.sets import manifest as manifests
from cached.sets.merkle import DIGEST, LEAF
from cached.sets.set import SetRecord
from cached.storage.disk import Store

#: Most bytes of metadata that travel with an offer.
ENCLOSED = 64 << 10
#: Most files whose bytes do.
FILES = 64
#: So little is worked through on the event loop: a thread would take longer to be reached.
AT_ONCE = 4 << 10


async def to_enclose(node: Node, record: SetRecord, *, coarse: bool) -> tuple[bytes, bytes]:
    """Return a set's metadata as the stream gives it, and the bytes of its files; nothing of what is not little.

    `coarse`: without leaves.
    """
    least = coarsely.longest(record.bytes) // 2 if coarse else record.bytes // (LEAF // DIGEST)
    if least > ENCLOSED or record.files * metadata.SHORTEST > ENCLOSED:
        return b"", b""
    direct = "direct" in record.methods and "direct" in node.config.replication.methods
    bytes_too = direct and not coarse and 0 < record.bytes <= CONTENT and record.files <= FILES
    return await asyncio.to_thread(_whole, node, record.content, coarse=coarse, bytes_too=bytes_too)


def _whole(node: Node, content: str, *, coarse: bool, bytes_too: bool) -> tuple[bytes, bytes]:
    store = metadata.local(node, content)
    try:
        if store is not None and store.manifest_size(content) > ENCLOSED:
            return b"", b""
        parts = metadata.encoded(node, content, coarse=coarse)
    except CachedError:
        return b"", b""
    if not metadata.suffice(parts) or sum(len(part or b"") for part in parts) > ENCLOSED:
        return b"", b""
    whole = b"".join([metadata.headed(parts), *(part or b"" for part in parts)])
    given = _bytes(store, content, parts[0] or b"") if bytes_too and store is not None else b""
    return whole, given


def _bytes(store: Store, content: str, manifest: bytes) -> bytes:
    """Return the bytes of all files of a content that is whole in a store."""
    with contextlib.suppress(CachedError):  # it is just going, or a file is too short
        line = LeafLine(manifests.decode(manifest))
        segments = list(line.segments([(0, line.total)]))
        return b"".join(read_blocks(lambda: store.open_content(content), segments, CONTENT))
    return b""


async def enclosed_in(enclosed: Enclosed | None, known: Known) -> metadata.Metadata | None:
    """Return the metadata that came with an offer, once it is found right; None where none came, or it is not."""
    if enclosed is None or not 0 < len(enclosed.metadata) <= ENCLOSED + metadata.HEAD:
        return None
    received = bytearray(enclosed.metadata)
    with contextlib.suppress(CachedError):
        lengths = metadata.head(received)
        if lengths is not None:
            metadata.check_lengths(lengths, known.record, coarse=True)
            # to follow links takes a while, however few they are
            if lengths.total == len(received) <= AT_ONCE and b"\nl " not in received:
                return metadata.parse(received, lengths, known.record.content)
            if lengths.total == len(received):
                return await asyncio.to_thread(metadata.parse, received, lengths, known.record.content)
    return None

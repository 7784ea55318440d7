"""Compared: what a document in the origin tells of a set, with what really lies there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cached.errors import IntegrityFailed
from cached.node import origins
from cached.node.node import Node
from cached.origin import places
from cached.origin.document import Document
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets.manifest import Manifest


@dataclass
class Lying:
    """What lies below a prefix."""

    #: All objects, by name.
    there: dict[str, Pinned] = field(default_factory=dict)
    #: Generation and crc32c of the files that lie where the document's map says, by path.
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: The map (`cached.origin.places`) when all lies there that the document tells of, else None.
    whole: bytes | None = None

    def has(self, pinned: Pinned) -> bool:
        """Tell whether an object lies there in this generation, size and crc32c."""
        one = self.there.get(pinned.name)
        return one is not None and _facts(one) == _facts(pinned)


def _facts(pinned: Pinned) -> tuple[int, int, int]:
    return pinned.generation, pinned.size, pinned.crc32c


async def compare(node: Node, bucket: str, base: str, found: Document, manifest: Manifest) -> Lying:
    """List what lies below `base` and compare it with the document `found`, which tells of this manifest.

    Raises what the origin raises.
    """
    listed = origins.port(node).list(bucket, base, token=NODE_ACCOUNT)
    lying = Lying({one.name: one async for one in listed})
    pinned, most = found.pinned(bucket, base, "places"), places.longest(manifest.file_count)
    if not lying.has(pinned) or pinned.size > most:
        return lying
    mapped = await origins.read(node, pinned, most)
    lying.files = await asyncio.to_thread(_files, lying, mapped, manifest, bucket, base)
    told = (found.bytes, found.files) == (manifest.total_bytes, manifest.file_count)
    parts = all(lying.has(found.pinned(bucket, base, part)) for part in found.parts)
    if told and parts and len(lying.files) == manifest.file_count:
        lying.whole = mapped
    return lying


def _files(
    lying: Lying, mapped: bytes, manifest: Manifest, bucket: str, base: str
) -> dict[str, tuple[int, int]]:
    try:
        where = places.decode(mapped, manifest)
    except IntegrityFailed:
        return {}
    if (where.bucket, where.base) != (bucket, base):
        return {}
    objects = where.pinned(manifest).items()
    return {path: (one.generation, one.crc32c) for path, one in objects if lying.has(one)}

"""Coarse digests: what a swarm needs of a content's leaves, at a quarter of their size.

The root over each 64 KiB of each file that is longer than that, concatenated in canonical order: what the merkle tree
has two levels above the leaves. The piece layers of a torrent with pieces of 64 KiB and more follow from them, so that
a node that comes back with a thousand contents need neither read nor hash their leaves. They can always be made again
from the leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cached.errors import IntegrityFailed
from cached.sets.leaves import split_leaves
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, piece_layer

#: Bytes of a file under one coarse digest.
SPAN: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Coarse:
    """The coarse digests of a content."""

    digests: bytes

    def split(self, manifest: Manifest) -> Iterator[tuple[Entry, memoryview]]:
        """Iterate over the files in canonical order, each with its digests: none for one of at most `SPAN` bytes.

        Raises `IntegrityFailed` when there are more or fewer than the manifest asks for.
        """
        view, at = memoryview(self.digests), 0
        if len(view) != sum(map(_length, manifest.files())):
            raise IntegrityFailed("the coarse digests do not have the length that the manifest asks for")
        for entry in manifest.files():
            end = at + _length(entry)
            yield entry, view[at:end]
            at = end


def coarse(manifest: Manifest, leaves: bytes) -> Coarse:
    """Return the coarse digests of a content from its leaves."""
    return Coarse(b"".join(piece_layer(part, SPAN) for _, part in split_leaves(manifest, leaves)))


def _length(entry: Entry) -> int:
    return -(-entry.size // SPAN) * DIGEST if entry.size > SPAN else 0

"""Coarse digests: what a swarm needs of a content's leaves, at a quarter of their size.

The root over each 64 KiB of each file that is longer than that, concatenated in canonical order: what the merkle tree
has two levels above the leaves. The piece layers of a torrent with pieces of 64 KiB and more follow from them, so that
a node that comes back with a thousand contents need neither read nor hash their leaves. They can always be made again
from the leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from cached.errors import IntegrityFailed
from cached.sets.leaves import split_leaves
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, piece_layer, root_over

#: Bytes of a file under one coarse digest.
SPAN: Final = 64 << 10
#: Bytes of the check in front of coarse digests that lie on a disk.
_CHECK: Final = 32


@dataclass(frozen=True, slots=True)
class Coarse:
    """The coarse digests of a content."""

    digests: bytes

    @classmethod
    def kept(cls, data: bytes | None) -> Self | None:
        """Return what `to_keep` gave; None for what a crash has left of it, or for nothing."""
        check, digests = (data or b"")[:_CHECK], (data or b"")[_CHECK:]
        return cls(digests) if check and sha256(digests).digest() == check else None

    def to_keep(self) -> bytes:
        """Return what is written to a disk: the digests behind a check."""
        return sha256(self.digests).digest() + self.digests

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


def longest(total_bytes: int) -> int:
    """Return how many bytes of coarse digests a content of `total_bytes` has at most, however many files it is."""
    return total_bytes // SPAN * 2 * DIGEST


def check(manifest: Manifest, found: Coarse) -> None:
    """Raise `IntegrityFailed`, naming the first file, unless these digests belong to the manifest's roots."""
    for entry, digests in found.split(manifest):
        if digests and root_over(digests, SPAN) != entry.root:
            raise IntegrityFailed(
                f"the coarse digests of {entry.path!r} do not belong to its root", path=entry.path
            )


def coarse(manifest: Manifest, leaves: bytes) -> Coarse:
    """Return the coarse digests of a content from its leaves."""
    parts = (part for entry, part in split_leaves(manifest, leaves) if entry.size > SPAN)
    return Coarse(b"".join(piece_layer(part, SPAN) for part in parts))


def _length(entry: Entry) -> int:
    return -(-entry.size // SPAN) * DIGEST if entry.size > SPAN else 0

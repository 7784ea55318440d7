"""What is kept beside a manifest: the leaves of all files, and all modification times.

*leaves*: for each file in canonical order its concatenated 32-byte leaves, nothing else.
*mtimes*: for each entry in canonical order (directories and links too) its modification time in nanoseconds
since 1970, a signed 64-bit little-endian number. Modification times are no part of the content.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator, Sequence

from cached.errors import IntegrityFailed
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, check_leaves, leaf_count


class LeafIndex:
    """Where the leaves of each file of a manifest lie in its leaves."""

    def __init__(self, manifest: Manifest) -> None:
        self._at: dict[str, slice] = {}
        offset = 0
        for entry in manifest.files():
            end = offset + leaf_count(entry.size) * DIGEST
            self._at[entry.path] = slice(offset, end)
            offset = end
        #: Bytes of all leaves.
        self.total = offset

    def offset(self, path: str) -> int:
        """Return at which byte the leaves of the file begin; raises `KeyError` for what is no file."""
        start: int = self._at[path].start
        return start

    def slice(self, path: str) -> slice:
        """Return the part of the leaves that is the file's; raises `KeyError` for what is no file."""
        return self._at[path]


def split_leaves(manifest: Manifest, leaves: bytes | memoryview) -> Iterator[tuple[Entry, memoryview]]:
    """Iterate over the files in canonical order, each with its leaves; nothing is copied."""
    view, at = memoryview(leaves), 0
    for entry in manifest.files():
        end = at + leaf_count(entry.size) * DIGEST
        yield entry, view[at:end]
        at = end


def check_all_leaves(manifest: Manifest, leaves: bytes | memoryview) -> None:
    """Raise `IntegrityFailed`, naming the first file, unless these leaves belong to the manifest's roots."""
    if len(leaves) != sum(leaf_count(entry.size) for entry in manifest.files()) * DIGEST:
        raise IntegrityFailed("the leaves do not have the length that the manifest asks for")
    view, at = memoryview(leaves), 0
    for entry in manifest.files():
        end = at + leaf_count(entry.size) * DIGEST
        part, at = view[at:end], end
        # the only leaf of a small file is its root
        if part != entry.root and not check_leaves(part, entry.size, entry.root):
            raise IntegrityFailed(f"the leaves of {entry.path!r} do not belong to its root", path=entry.path)


def encode_mtimes(mtimes_ns: Sequence[int]) -> bytes:
    """Return the bytes of the modification times, given in the manifest's order."""
    values = array.array("q", mtimes_ns)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def decode_mtimes(data: bytes, manifest: Manifest) -> list[int]:
    """Return the modification times in the manifest's order; raises `IntegrityFailed` for another length."""
    if len(data) != 8 * len(manifest.entries):
        raise IntegrityFailed("the modification times do not fit the manifest")
    values = array.array("q")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()

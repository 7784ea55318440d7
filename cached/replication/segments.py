"""A content as one line of leaves: which bytes of which file a range of leaf numbers stands for.

A rule, free of I/O. Leaves are numbered through all files in canonical order, as in the leaves file. The
direct method asks for ranges of these numbers and gets the bytes one after the other; both ends know the
manifest, so nothing else needs to be said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF, leaf_count

#: From this leaf up to, without, that one.
Range = tuple[int, int]


class Segment(NamedTuple):
    """Neighbouring leaves of one file."""

    path: str
    #: First byte in the file, and how many.
    offset: int
    size: int
    #: Number of the first leaf, counted through all files.
    leaf: int
    #: The file, where this is all of it.
    whole: Entry | None = None

    @property
    def end(self) -> int:
        """The number after its last leaf."""
        return self.leaf + leaf_count(self.size)


class LeafLine:
    """The leaves of a manifest, in a line."""

    def __init__(self, manifest: Manifest) -> None:
        self._files = [entry for entry in manifest.files() if entry.size]
        leaves = list(accumulate([leaf_count(entry.size) for entry in self._files], initial=0))
        #: Leaves in all.
        self.total = leaves.pop()
        #: Leaves, and bytes, before each file; of the bytes also the sum.
        self._starts = leaves
        self._bytes = list(accumulate([entry.size for entry in self._files], initial=0))

    def segments(self, ranges: Iterable[Range]) -> Iterator[Segment]:
        """Iterate over the parts of files that the ranges stand for; raise `ValueError` for nonsense."""
        files, starts = self._files, self._starts
        for first, end in ranges:
            self.check(((first, end),))
            index = bisect_right(starts, first) - 1
            leaf = first
            while leaf < end:
                entry, start = files[index], starts[index]
                if entry.size <= LEAF:
                    yield Segment(entry.path, 0, entry.size, leaf, entry)
                    leaf, index = leaf + 1, index + 1
                    continue
                stop = min(end, start + leaf_count(entry.size))
                offset = (leaf - start) * LEAF
                size = min(entry.size, (stop - start) * LEAF) - offset
                yield Segment(entry.path, offset, size, leaf, entry if size == entry.size else None)
                leaf, index = stop, index + 1

    def check(self, ranges: Iterable[Range]) -> None:
        """Raise `ValueError` for ranges that stand for nothing."""
        for first, end in ranges:
            if not 0 <= first < end <= self.total:
                raise ValueError(f"no leaves {first} to {end} among {self.total}")

    def bytes_in(self, ranges: Iterable[Range]) -> int:
        """Return how many bytes the ranges stand for."""
        given = list(ranges)
        self.check(given)
        return sum(self._before(end) - self._before(first) for first, end in given)

    def _before(self, leaf: int) -> int:
        """Return how many bytes there are before a leaf."""
        index = bisect_right(self._starts, leaf) - 1
        within = (leaf - self._starts[index]) * LEAF
        return min(self._bytes[index] + within, self._bytes[index + 1])


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges that touch; they come in order."""
    result: list[Range] = []
    for first, end in ranges:
        if result and result[-1][1] == first:
            result[-1] = (result[-1][0], end)
        elif first < end:
            result.append((first, end))
    return result


def after(ranges: Iterable[Range], leaf: int) -> list[Range]:
    """Return what is left of the ranges from this leaf on."""
    return [(max(first, leaf), end) for first, end in ranges if end > leaf]

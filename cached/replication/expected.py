"""What bytes must hash to: parts of files judged by digests of either kind. A rule, free of I/O."""

from __future__ import annotations

from collections.abc import Iterator

from cached.replication.segments import Segment
from cached.sets.coarse import SPAN, Coarse
from cached.sets.digests import Digests, unit_of
from cached.sets.manifest import Manifest
from cached.sets.merkle import DIGEST, LEAF, leaf_count, root_from_leaves, span_roots


class Expected:
    """Judges the leaves that were found of parts of a content's files."""

    def __init__(self, manifest: Manifest, digests: Digests) -> None:
        #: Bytes of a file that are judged by themselves; a part begins at a multiple of it, and ends at one or with
        #: its file.
        self.unit = unit_of(digests)
        self._leaves = b"" if isinstance(digests, Coarse) else digests
        #: Coarse digests by path, of files that are longer than a span; another one is judged by its root.
        self._coarse = (
            {entry.path: part for entry, part in digests.split(manifest) if part}
            if isinstance(digests, Coarse)
            else None
        )

    def right(self, part: Segment, found: bytes) -> bool:
        """Tell whether the leaves found of a part are those that it should have."""
        if self._coarse is None:
            first = part.leaf * DIGEST
            return found == self._leaves[first : first + len(found)]
        digests = self._coarse.get(part.path)
        if digests is None:
            return part.whole is not None and root_from_leaves(found) == part.whole.root
        roots, at = span_roots(found, SPAN), part.offset // SPAN * DIGEST
        return not part.offset % SPAN and roots == digests[at : at + len(roots)]

    def units(self, part: Segment, found: bytes) -> Iterator[tuple[Segment, bytes]]:
        """Break a part, and its leaves, into what is judged by itself."""
        step = self.unit // LEAF
        for number in range(0, leaf_count(part.size), step):
            offset = number * LEAF
            size = min(self.unit, part.size - offset)
            whole = part.whole if size == part.size else None
            one = Segment(part.path, part.offset + offset, size, part.leaf + number, whole)
            yield one, found[number * DIGEST : (number + step) * DIGEST]

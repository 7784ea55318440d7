"""Leaves made here: a content that came with its coarse digests alone gets its leaves from its own bytes.

A source with many receivers would give each of them the leaves, a five-hundredth of the content, before the first
piece. The coarse digests are a quarter of that and suffice for a swarm; the leaves are made beside the transfer, from
what has come and is still in the kernel's memory, and each span is compared with its coarse digest on the way.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cached.errors import Busy, IntegrityFailed
from cached.sets.coarse import SPAN, Coarse
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, LEAF, hash_leaves, leaf_count, root_from_leaves, span_roots
from cached.storage import files, tree
from cached.storage.staging import Staging

#: Bytes of a file that are read at once.
_CHUNK: Final = 16 * SPAN
_PART: Final = "leaves.part"

#: Path of a file, and from which byte to which (exclusive).
Extent = tuple[str, int, int]


class _File(NamedTuple):
    """A file that is longer than a leaf."""

    entry: Entry
    #: Its coarse digests; none where it is no longer than a span.
    digests: memoryview
    #: Number of its first span, of all files' one after the other.
    first: int
    #: Where its leaves begin, in bytes.
    offset: int

    def right(self, leaves: bytes, at: int) -> int:
        """Return of how many spans from this byte on these are the leaves; 0 when they are not right."""
        roots = span_roots(leaves, SPAN) if self.entry.size > SPAN else root_from_leaves(leaves)
        expected = self.digests[at // SPAN * DIGEST :] if self.entry.size > SPAN else self.entry.root
        return len(roots) // DIGEST if roots and roots == expected[: len(roots)] else 0


class LeafMaker:
    """Makes the leaves of one coming content, but for those that it is given.

    All but `note` and `stop` block; close it when done.
    """

    def __init__(self, staging: Staging, manifest: Manifest, coarse: Coarse) -> None:
        """Begin; what an earlier attempt made is made again. `coarse` belongs to the manifest.

        Raises `NoSpace`, and `IntegrityFailed` for digests of another length.
        """
        self._path = staging.path
        self._manifest = manifest
        #: The files that are longer than a leaf, by path.
        self._files: dict[str, _File] = {}
        total = offset = 0
        for entry, digests in coarse.split(manifest):
            if entry.size > LEAF:
                self._files[entry.path] = _File(entry, digests, total, offset)
                total += -(-entry.size // SPAN)
            offset += leaf_count(entry.size) * DIGEST
        #: One byte for each span of each file: whether its leaves are made.
        self._made = bytearray(total)
        self._come: deque[Extent] = deque()
        self._lock = threading.Lock()
        self._stopped = False
        self._tree = self._leaves = -1
        with files.translated(staging.path):
            try:
                self._tree = os.dup(staging.data_fd)
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                self._leaves = os.open(staging.path / _PART, flags, 0o600)
                os.truncate(self._leaves, offset)
            except BaseException:
                self.close()
                raise

    def note(self, extents: Iterable[Extent]) -> None:
        """Remember that these bytes have come, each from a multiple of `SPAN` to another or the end of the file."""
        self._come.extend(extents)

    def put(self, path: str, start: int, leaves: bytes) -> None:
        """Take the leaves of a part of a file, which begins at a multiple of `SPAN` and ends at one or with the file.

        From any thread. Those that are not right, or whose bytes are not, are left to `finish`.
        """
        file = self._files.get(path)
        count = file.right(leaves, start) if file is not None else 0
        if file is not None and count:
            with self._lock, files.translated(self._path):
                if self._leaves >= 0:
                    self._keep(file, start, leaves, count)

    @property
    def waiting(self) -> bool:
        """Tell whether something has come whose leaves are not made."""
        return bool(self._come)

    def make(self) -> None:
        """Make the leaves of what has come. What is not in its file yet, or does not match, is left to `finish`."""
        with self._lock, files.translated(self._path):
            while self._come and not self._stopped:
                path, start, end = self._come.popleft()
                file = self._files.get(path)
                if file is not None and self._lacks(file, start, end):
                    self._make(file, start, end)

    def finish(self) -> None:
        """Make all leaves that are left, and put them where sealed ones lie: everything has come.

        Raises `IntegrityFailed` with the path of a file that is not what the manifest says, `NoSpace`, and `Busy` when
        it was stopped. May be repeated.
        """
        with self._lock, files.translated(self._path):
            offset = 0
            for entry in self._manifest.files():
                file, good = self._files.get(entry.path), True
                if file is not None:
                    good = self._rest(file)
                elif entry.size:  # the only leaf of a small one is its root
                    files.write_all(self._leaves, entry.root, offset)
                offset += leaf_count(entry.size) * DIGEST
                if self._stopped:
                    raise Busy("the digests of what was received are not made any more")
                if not good:
                    raise IntegrityFailed(
                        f"what was received of {entry.path!r} does not match its digests", path=entry.path
                    )
            os.rename(self._path / _PART, self._path / "leaves")

    def stop(self) -> None:
        """Have what runs in another thread end at its next chunk. Does not block."""
        self._stopped = True

    def close(self) -> None:
        """Let go of the files; may be repeated."""
        self.stop()
        with self._lock:
            for fd in (self._tree, self._leaves):
                if fd >= 0:
                    os.close(fd)
            self._tree = self._leaves = -1

    def _lacks(self, file: _File, start: int, end: int) -> bool:
        """Tell whether leaves of a part of a file are not made yet."""
        return self._made.find(0, file.first + start // SPAN, file.first + -(-end // SPAN)) >= 0

    def _rest(self, file: _File) -> bool:
        first, size = file.first, file.entry.size
        end = first + -(-size // SPAN)
        at = self._made.find(0, first, end)
        while at >= 0:
            last = self._made.find(1, at, end)
            last = end if last < 0 else last
            if not self._make(file, (at - first) * SPAN, min(size, (last - first) * SPAN)):
                return False
            at = self._made.find(0, last, end)
        return True

    def _make(self, file: _File, start: int, end: int) -> bool:
        """Make the leaves of a part of a file; False when it is not what it should be."""
        good = True
        for at, data in self._read(file.entry, start, end):
            leaves = hash_leaves(data)
            count = file.right(leaves, at)
            if count:
                self._keep(file, at, leaves, count)
            good = good and bool(count)
        return good

    def _keep(self, file: _File, at: int, leaves: bytes, count: int) -> None:
        files.write_all(self._leaves, leaves, file.offset + at // LEAF * DIGEST)
        span = file.first + at // SPAN
        self._made[span : span + count] = b"\1" * count

    def _read(self, entry: Entry, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Iterate over the chunks of a part of a file, each with where it begins; nothing where the file is short."""
        try:
            fd = tree.open_file(self._tree, entry.path)
        except FileNotFoundError:
            yield start, b""
            return
        try:
            for at in range(start, end, _CHUNK):
                if self._stopped:
                    return
                wanted = min(_CHUNK, end - at)
                data = os.pread(fd, wanted, at)
                yield at, data if len(data) == wanted else b""
        finally:
            os.close(fd)

"""Which contents have a file of these bytes? Read off their manifests, when somebody asks, and remembered compactly.

A hint: eight bytes of each root are remembered, and the manifest tells whether it is that file.
"""

from __future__ import annotations

import re
import sys
import threading
from array import array
from collections.abc import Collection
from hashlib import sha256
from typing import Final, NamedTuple

from cached.errors import IntegrityFailed
from cached.sets.merkle import LEAF
from cached.storage.disk import Store

#: Files up to so many bytes, one leaf, are never shared: a link costs about what they do.
SMALLEST: Final = LEAF
#: Roots that are remembered at most, 8 bytes each; beyond, all are forgotten and read anew.
MOST: Final = 4_000_000

#: The lines of files that may be large enough: their sizes, and what is remembered of their roots.
_SHORT = re.compile(rb"^f [-x] (\d{5,19}) ([0-9a-f]{16})", re.MULTILINE)
_LINE = re.compile(rb"^f ([-x]) (\d{5,19}) ([0-9a-f]{64}) (.*)$", re.MULTILINE)


class SharedFile(NamedTuple):
    """A file that is large enough to be shared, as a manifest has it."""

    path: str
    size: int
    executable: bool
    root: bytes


def short(root: bytes) -> int:
    """Return what is remembered of a root."""
    return int.from_bytes(root[:8], "big")


class FileIndex:
    """The roots of the files of contents; thread-safe."""

    def __init__(self) -> None:
        self._roots: dict[tuple[str, str], array[int]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def matching(self, store: Store, content: str, wanted: frozenset[int]) -> frozenset[int]:
        """Return those of the short roots that a file of the content has. `CachedError` when it is not there."""
        key = (store.tier, content)
        with self._lock:
            roots = self._roots.get(key)
        if roots is None:
            roots = _short_roots(store.manifest_bytes(content))
            with self._lock:
                if self._count > MOST:
                    self._roots.clear()
                    self._count = 0
                self._roots[key] = roots
                self._count += len(roots)
        return wanted.intersection(roots)

    def forget(self, store: Store, content: str) -> None:
        """Forget a content that goes."""
        with self._lock:
            self._count -= len(self._roots.pop((store.tier, content), ()))


def _short_roots(manifest: bytes) -> array[int]:
    """Return the short roots of the files that are large enough."""
    digits = b"".join([root for size, root in _SHORT.findall(manifest) if int(size) > SMALLEST])
    roots = array("Q", bytes.fromhex(digits.decode()))
    if sys.byteorder == "little":
        roots.byteswap()
    return roots


def matches(store: Store, content: str, roots: Collection[int]) -> list[SharedFile]:
    """Return the files of a content that have one of these short roots, from its manifest, which is checked."""
    data = store.manifest_bytes(content)
    if sha256(data).hexdigest() != content:
        raise IntegrityFailed(f"the manifest of content {content[:12]} is damaged", content=content)
    found = []
    for line in _LINE.finditer(data):
        if int(line[3][:16], 16) in roots and int(line[2]) > SMALLEST:
            mark, size, root, path = line.groups()
            found.append(SharedFile(path.decode(), int(size), mark == b"x", bytes.fromhex(root.decode())))
    return found

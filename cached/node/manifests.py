"""Of contents that were asked for lately: merkle roots, so that a large manifest is not parsed for each file that is
read over HTTP; small manifests, so that they are not read anew for each of the nodes that fetch a content at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from cached.sets.manifest import Manifest
from cached.sets.paths import follow
from cached.storage.disk import Store

#: Contents whose roots are kept, and the files in all of them together, beyond those of the last one.
LIMIT = 16
MOST_FILES = 250_000
#: Manifests that are kept whole, and the most entries of one.
SMALL = 64
ENTRIES = 64


class Manifests:
    """Path -> merkle root, and path -> target of links, of a few contents; may be asked by several threads."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, tuple[dict[str, bytes], dict[str, str]]] = OrderedDict()
        self._small: OrderedDict[str, Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def kept(self, content: str) -> Manifest | None:
        """Return a content's manifest if it is small and was read lately; whether the content is here is not asked."""
        return self._small.get(content)

    def read(self, store: Store, content: str) -> Manifest:
        """Read a content's manifest, and keep it if it is small. Blocks."""
        manifest = store.manifest(content)
        if len(manifest.entries) <= ENTRIES:
            with self._lock:
                self._small[content] = manifest
                while len(self._small) > SMALL:
                    self._small.popitem(last=False)
        return manifest

    def root(self, store: Store, content: str, path: str) -> str:
        """Return the hex root of the file that a path leads to; empty for directories, empty files, and what is not
        there. Reads the manifest when it has not done so lately: call it in a thread.
        """
        roots, links = self._of(store, content)
        return roots.get(path if path in roots else follow(links, path) or "", b"").hex()

    def links(self, store: Store, content: str) -> dict[str, str]:
        """Return the links of a content: path -> target."""
        return self._of(store, content)[1]

    def _of(self, store: Store, content: str) -> tuple[dict[str, bytes], dict[str, str]]:
        with self._lock:
            found = self._roots.get(content)
            if found is None:
                manifest = store.manifest(content)
                roots = {entry.path: entry.root for entry in manifest.files()}
                links = {entry.path: entry.target for entry in manifest.entries if entry.kind == "link"}
                found = self._roots[content] = roots, links
                self._shrink()
            self._roots.move_to_end(content)
            return found

    def _shrink(self) -> None:
        files = sum(len(roots) for roots, _ in self._roots.values())
        while len(self._roots) > 1 and (len(self._roots) > LIMIT or files > MOST_FILES):
            files -= len(self._roots.popitem(last=False)[1][0])

"""Merkle roots of contents that were read over HTTP lately, so that a large manifest is not parsed for each file."""

from __future__ import annotations

import threading
from collections import OrderedDict

from cached.sets.paths import follow
from cached.storage.disk import Store

#: Contents whose roots are kept, and the files in all of them together, beyond those of the last one.
LIMIT = 16
MOST_FILES = 250_000


class Manifests:
    """Path -> merkle root, and path -> target of links, of a few contents; may be asked by several threads."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, tuple[dict[str, bytes], dict[str, str]]] = OrderedDict()
        self._lock = threading.Lock()

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

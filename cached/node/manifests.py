"""Merkle roots of contents that were read over HTTP lately, so that a large manifest is not parsed for each file."""

from __future__ import annotations

from collections import OrderedDict

from cached.sets.paths import follow
from cached.storage.disk import Store

#: Contents whose roots are kept.
LIMIT = 16


class Manifests:
    """Path -> merkle root, and path -> target of links, of a few contents."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, tuple[dict[str, str], dict[str, str]]] = OrderedDict()

    def root(self, store: Store, content: str, path: str) -> str:
        """Return the hex root of the file that a path leads to; empty for directories, empty files, and what is not
        there.
        """
        roots, links = self._of(store, content)
        return roots.get(path if path in roots else follow(links, path) or "", "")

    def links(self, store: Store, content: str) -> dict[str, str]:
        """Return the links of a content: path -> target."""
        return self._of(store, content)[1]

    def _of(self, store: Store, content: str) -> tuple[dict[str, str], dict[str, str]]:
        found = self._roots.get(content)
        if found is None:
            manifest = store.manifest(content)
            roots = {entry.path: entry.root.hex() for entry in manifest.files()}
            links = {entry.path: entry.target for entry in manifest.entries if entry.kind == "link"}
            found = self._roots[content] = roots, links
            if len(self._roots) > LIMIT:
                self._roots.popitem(last=False)
        self._roots.move_to_end(content)
        return found

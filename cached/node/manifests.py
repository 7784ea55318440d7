"""Merkle roots of contents that were read over HTTP lately, so that a large manifest is not parsed for each file."""

from __future__ import annotations

from collections import OrderedDict

from cached.storage.disk import Store

#: Contents whose roots are kept.
LIMIT = 16


class Manifests:
    """Path -> merkle root of a few contents."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, dict[str, str]] = OrderedDict()

    def root(self, store: Store, content: str, path: str) -> str:
        """Return the hex root of a file; empty for directories, empty files, and what is not there."""
        roots = self._roots.get(content)
        if roots is None:
            roots = {entry.path: entry.root.hex() for entry in store.manifest(content).files()}
            self._roots[content] = roots
            if len(self._roots) > LIMIT:
                self._roots.popitem(last=False)
        self._roots.move_to_end(content)
        return roots.get(path, "")

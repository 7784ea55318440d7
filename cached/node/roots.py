"""Open directories of contents: opening a file of a set costs one system call, not a walk from the root."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final

from cached.errors import NotFound
from cached.storage.disk import Store
from cached.storage.tree import open_beside, open_for_passing

#: Tier, content, and the directory's path inside it.
_Key = tuple[str, str, str]
#: Directories kept open.
_LIMIT: Final = 512


class Roots:
    """Directory descriptors of the contents that are read most, kept open for the daemon's own use.

    What is not found in a directory that is open is looked for from the root: a path may lead through links.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._open: OrderedDict[_Key, int] = OrderedDict()
        self._of_content: dict[tuple[str, str], set[_Key]] = {}

    def of(self, store: Store, content: str) -> int:
        """Return the root's descriptor; it stays this object's. Raises `NotFound`."""
        return self._directory(store, content, "")

    def open(self, store: Store, content: str, path: str) -> int:
        """Open a file or directory of a content for reading; the caller closes it. Raises `NotFound`."""
        folder, _, name = path.rpartition("/")
        try:
            return open_beside(self._directory(store, content, folder), name)
        except (OSError, ValueError, NotFound):  # a link, or not there
            return store.open_file(self.of(store, content), path)

    def drop(self, store: Store, content: str) -> None:
        """Close a content's directories: the content goes."""
        for key in self._of_content.pop((store.tier, content), ()):
            os.close(self._open.pop(key))

    def close(self) -> None:
        """Close all."""
        self._of_content.clear()
        while self._open:
            os.close(self._open.popitem()[1])

    def _directory(self, store: Store, content: str, path: str) -> int:
        key = (store.tier, content, path)
        found = self._open.get(key)
        if found is not None:
            self._open.move_to_end(key)
            return found
        opened = open_for_passing(self.of(store, content), path) if path else store.open_content(content)
        self._open[key] = opened
        self._of_content.setdefault(key[:2], set()).add(key)
        if len(self._open) > self._limit:
            self._close_oldest()
        return opened

    def _close_oldest(self) -> None:
        key, descriptor = self._open.popitem(last=False)
        os.close(descriptor)
        others = self._of_content[key[:2]]
        others.discard(key)
        if not others:
            del self._of_content[key[:2]]

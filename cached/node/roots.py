"""Open root directories of contents: opening a file of a set costs one system call, not a walk from the root."""

from __future__ import annotations

import os
from collections import OrderedDict

from cached.storage.disk import Store


class Roots:
    """Directory descriptors of the contents that are read most, kept open for the daemon's own use."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._open: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(self, store: Store, content: str) -> int:
        """Return the root's descriptor; it stays this object's. Raises `NotFound`."""
        key = (store.tier, content)
        found = self._open.get(key)
        if found is not None:
            self._open.move_to_end(key)
            return found
        opened = store.open_content(content)
        self._open[key] = opened
        if len(self._open) > self._limit:
            os.close(self._open.popitem(last=False)[1])
        return opened

    def drop(self, store: Store, content: str) -> None:
        """Close a content's root: the content goes."""
        found = self._open.pop((store.tier, content), None)
        if found is not None:
            os.close(found)

    def close(self) -> None:
        """Close all."""
        while self._open:
            os.close(self._open.popitem()[1])

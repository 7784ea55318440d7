"""Of contents that were asked for lately: merkle roots, so that a large manifest is not parsed for each file that is
read over HTTP; small manifests, so that they are not read anew for each of the nodes that fetch a content at once; and
for a moment a large one, so that whoever sends what describes a content need not read it again to send the bytes.
"""

from __future__ import annotations

import threading
import time
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
#: Seconds for which the last larger one is kept after it was asked for.
LATELY = 10.0


class Manifests:
    """Path -> merkle root, and path -> target of links, of a few contents; may be asked by several threads."""

    def __init__(self) -> None:
        self._roots: OrderedDict[str, tuple[dict[str, bytes], dict[str, str]]] = OrderedDict()
        self._small: OrderedDict[str, Manifest] = OrderedDict()
        #: The last larger one, and the monotonic time when it was asked for.
        self._last: tuple[str, Manifest, float] | None = None
        self._reading = threading.Lock()
        self._lock = threading.Lock()

    def kept(self, content: str) -> Manifest | None:
        """Return a content's manifest if it is at hand; whether the content is here is not asked."""
        last = self._last
        if last is not None and last[0] == content:
            self._last = (*last[:2], time.monotonic())
            return last[1]
        return self._small.get(content)

    def read(self, store: Store, content: str) -> Manifest:
        """Read a content's manifest, and keep it for others. Blocks, also while another one is read."""
        with self._reading:
            if (found := self.kept(content)) is not None:
                return found
            manifest = store.manifest(content)
            if len(manifest.entries) > ENTRIES:
                self._last = (content, manifest, time.monotonic())
                return manifest
            with self._lock:
                self._small[content] = manifest
                while len(self._small) > SMALL:
                    self._small.popitem(last=False)
            return manifest

    def tidy(self, now: float) -> None:
        """Let the last larger one go when nobody has asked for it lately; `now` is monotonic."""
        last = self._last
        if last is not None and now - last[2] > LATELY:
            self._last = None

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

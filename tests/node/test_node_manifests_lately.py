"""A large manifest that was just read is at hand for a moment."""

from __future__ import annotations

import time

from cached.node.manifests import ENTRIES, LATELY, Manifests
from cached.sets.manifest import Entry, Manifest


class Store:
    reads = 0

    def manifest(self, content: str) -> Manifest:
        self.reads += 1
        count = 1 if content == "small" else ENTRIES + 1
        return Manifest(entries=tuple(Entry(path=f"{each}", kind="file") for each in range(count)))


def test_the_last_large_manifest_is_read_once_while_it_is_asked_for():
    manifests, store = Manifests(), Store()
    assert manifests.kept("large") is None
    found = manifests.read(store, "large")
    assert manifests.read(store, "large") is found
    assert manifests.kept("large") is found
    assert store.reads == 1
    manifests.read(store, "small")
    assert manifests.kept("large") is found
    manifests.read(store, "another")
    assert manifests.kept("large") is None


def test_it_goes_when_nobody_has_asked_for_it_lately_and_small_ones_stay():
    manifests, store = Manifests(), Store()
    manifests.read(store, "large")
    manifests.read(store, "small")
    now = time.monotonic()
    manifests.tidy(now)
    assert manifests.kept("large") is not None
    manifests.tidy(now + LATELY + 60)
    assert manifests.kept("large") is None
    assert manifests.kept("small") is not None

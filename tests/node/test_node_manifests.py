"""The roots by which HTTP names what a file holds."""

from __future__ import annotations

import pytest
from cached.node import manifests
from cached.node.manifests import Manifests
from cached.sets.manifest import Entry, Manifest

ROOT = bytes(range(32))


class OneContent:
    def manifest(self, _content):
        return Manifest.build(
            [
                Entry(path="d", kind="dir"),
                Entry(path="d/e", kind="dir"),
                Entry(path="d/e/f", kind="file", size=5, root=ROOT),
                Entry(path="d/up", kind="link", target="../straight"),
                Entry(path="none", kind="link", target="gone"),
                Entry(path="straight", kind="link", target="way/f"),
                Entry(path="void", kind="file"),
                Entry(path="way", kind="link", target="d/e"),
            ]
        )


def test_small_manifests_that_were_read_last_are_kept(monkeypatch):
    monkeypatch.setattr(manifests, "SMALL", 2)
    made = Manifests()
    for content in "abc":
        made.read(OneContent(), content)
    assert made.kept("a") is None
    assert made.kept("c") == OneContent().manifest("c")


@pytest.mark.parametrize("path", ["d/e/f", "way/f", "straight", "d/up"])
def test_a_file_has_the_same_root_whichever_links_lead_to_it(path):
    assert Manifests().root(OneContent(), "c", path) == ROOT.hex()


@pytest.mark.parametrize("path", ["void", "d", "way", "none", "absent", ""])
def test_what_has_no_bytes_has_no_root(path):
    assert Manifests().root(OneContent(), "c", path) == ""

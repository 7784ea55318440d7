"""A set that goes by BitTorrent leaves its source without its leaves: coarse digests come with the offer."""

from __future__ import annotations

import pytest
from tests.cluster.kit import contents, has, noise, start

pytestmark = pytest.mark.daemon

MB = 1_000_000


def digests(node) -> tuple[bytes, bytes]:
    """The leaves and the coarse digests of the only content on a node's disk."""
    (content,) = contents(node)
    return (content / "leaves").read_bytes(), (content / "coarse").read_bytes()


def test_a_set_for_a_swarm_comes_with_coarse_digests_in_the_offer_and_no_leaves_are_asked_of_the_source(
    cluster,
):
    a, b = start(cluster, "ab")
    data = cluster.tree("s", {"f": noise(6 * MB), "dir/g": noise(70_000, 1), "small": b"x"})
    made = a.cli("create", "s", data, "--replicas", "0", "--methods", "bittorrent").json()
    a.cli("replicate", "s", "--to", "b", "--wait", timeout=120)
    whole = digests(a)
    assert digests(b) == whole
    assert len(whole[1]) < len(whole[0]) / 3
    b.cli("delete", "s")
    cluster.wait_for(lambda: not contents(b), what="the replica to go")
    # A source without leaves cannot give any.
    (a.disk / "contents" / made["content"] / "leaves").unlink()
    a.cli("replicate", "s", "--to", "b", "--wait", timeout=120)
    assert has(b, "s")
    assert digests(b) == whole
    counted = b.status()["counters"]
    assert counted["metadata.enclosed"] == 2
    assert [name for name in counted if name.startswith("metadata.asked")] == []
    (moved,) = [one["methods"] for one in b.status()["traffic"] if one["name"] == "s"]
    assert moved["bittorrent"]["bytes_received"] >= 6 * MB

from __future__ import annotations

import contextlib
import threading

import pytest
from tests.cluster.kit import holders, noise, start

pytestmark = pytest.mark.daemon

MB = 1_000_000


def traffic(node) -> dict:
    lines = node.status()["traffic"]
    return lines[0] if lines else {"bytes_sent": 0, "methods": {}}


def test_who_gets_a_set_alone_shares_it_with_those_who_come_meanwhile(cluster):
    """One stream to each of the two would take all bytes from the source twice."""
    a = cluster.start("a", replication_upload_limit="6MB")
    b, c = start(cluster, "bc")
    cluster.together()
    size = 60 * MB
    a.cli("create", "s", cluster.tree("s", {"f": noise(size)}), "--replicas", "0")
    cluster.wait_for(lambda: b.show("s") and c.show("s"))

    def fetch(node) -> None:
        with contextlib.closing(node.client()) as client:
            client.fetch("s")

    jobs = [threading.Thread(target=fetch, args=(node,)) for node in (b, c)]
    jobs[0].start()
    cluster.wait_for(lambda: traffic(a)["bytes_sent"] > 6 * MB)
    jobs[1].start()
    for job in jobs:
        job.join()
    cluster.wait_for(lambda: holders(a, "s") == {"a", "b", "c"})
    got = traffic(b)["methods"]
    assert got["direct"]["bytes_received"] > 0
    assert got["bittorrent"]["bytes_received"] > 0
    assert traffic(a)["bytes_sent"] < 1.7 * size


def test_a_node_that_comes_late_spares_the_originator(cluster):
    a, b, c = start(cluster, "abc")
    size = 9 * MB
    a.cli("create", "s", cluster.tree("s", {"f": noise(size)}), "--replicas", "0")
    a.cli("replicate", "s", "--to", "b", "--wait")
    sent = traffic(a)["bytes_sent"]
    cluster.wait_for(lambda: "b" in holders(c, "s"))
    with contextlib.closing(c.client()) as client:
        client.fetch("s")
    assert traffic(a)["bytes_sent"] == sent
    assert traffic(b)["bytes_sent"] >= size

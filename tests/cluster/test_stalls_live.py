"""Transfers that do not move: they say why, try others and other methods, and go on when they can."""

from __future__ import annotations

import json
import re
import threading

import pytest
from cached.errors import CachedError
from tests.cluster.kit import has, noise, present, start

pytestmark = pytest.mark.daemon

MB = 1_000_000


def reason(node, ref: str, of: str) -> str:
    """Return what is said of the copy on the node called `of`."""
    return next((one["reason"] for one in node.show(ref).get("replicas", []) if one["node"] == of), "")


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_without_its_only_source_a_transfer_says_so_to_all_who_wait_and_goes_on_with_it(cluster, method):
    a = cluster.start("a", replication_upload_limit="2MB")
    b, c = start(cluster, "bc")
    cluster.together()
    files = cluster.tree("s", {"f": noise(16 * MB)})
    a.cli("create", "s", files, "--replicas", "0", "--methods", method)
    cluster.wait_for(lambda: b.show("s") and c.show("s"))
    told: list[str] = []
    ended: list[object] = []

    def wait() -> None:
        with b.client() as client:
            try:
                ended.append(client.fetch("s", progress=lambda report: told.append(report.reason)))
            except CachedError as error:
                ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        cluster.wait_for(lambda: present(b, "s") > MB)
        a.kill()
        cluster.wait_for(lambda: any(told), what="whoever waits to hear why nothing comes")
        cluster.wait_for(lambda: reason(b, "s", "b"), what="b to say why nothing comes")
        cluster.wait_for(lambda: reason(c, "s", "b"), what="c to hear why nothing comes to b")
        assert not ended
        a.restart(replication_upload_limit="")
    finally:
        waiting.join(180)
    assert not isinstance(ended[0], CachedError), ended[0]
    assert has(b, "s")
    assert reason(b, "s", "b") == ""


def test_where_no_bittorrent_port_can_be_reached_the_set_comes_directly(cluster):
    elsewhere = {"node_bittorrent": "127.0.0.9:0"}  # peers dial the address of the control port
    a = cluster.start("a", **elsewhere)
    b, c, d = start(cluster, "bcd", **elsewhere)
    cluster.together()
    files = cluster.tree("s", {"f": noise(60 * MB)})
    a.cli("create", "s", files, "--replicas", "all", "--wait")
    for node in (b, c, d):
        assert has(node, "s")
    assert any("receive.bittorrent_failed" in node.status()["counters"] for node in (b, c, d))


def test_a_direct_transfer_whose_source_died_goes_on_by_bittorrent_where_only_that_is_given(cluster):
    a = cluster.start("a", replication_upload_limit="2MB")
    c = cluster.start("c", replication_methods=json.dumps(["bittorrent"]))
    cluster.together()
    files = cluster.tree("s", {"f": noise(10 * MB)})
    a.cli("create", "s", files, "--replicas", "all", "--wait")
    a.cli("update", "s", "--replicas", "1")
    c.pause()
    b = cluster.start("b")
    cluster.wait_for(lambda: b.show("s"))
    a.cli("replicate", "s", "--to", "b")
    cluster.wait_for(lambda: present(b, "s") > MB)
    a.kill()
    c.resume()
    cluster.wait_for(lambda: has(b, "s"), what="b to finish from c")
    (moved,) = [one["methods"] for one in b.status()["traffic"] if one["name"] == "s"]
    assert moved["direct"]["bytes_received"] > 0
    assert moved["bittorrent"]["bytes_received"] > 0


def test_whoever_waits_for_a_copy_that_does_not_fit_is_told_how_much_is_missing(cluster):
    a = cluster.start("a")
    b = cluster.start("b", store_capacity="5MB")
    cluster.together()
    a.cli("create", "s", cluster.tree("s", {"f": noise(8 * MB)}), "--replicas", "0")
    cluster.wait_for(lambda: b.show("s"))
    ran = b.cli("exec", "s", "--", "true", check=False)
    assert ran.returncode == 125
    assert re.search(r"needs 7\.6 MiB of disk, 4\.[78] MiB free", ran.stderr), ran.stderr

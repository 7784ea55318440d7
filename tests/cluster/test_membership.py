"""Who is there: nodes that come, die, fall silent, return, move, are admitted and are shut out."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.cluster.kit import alive, free_port, has, start
from tests.daemons.node import CACHED

pytestmark = pytest.mark.daemon


def test_one_seed_is_enough_for_all_to_see_each_other(cluster):
    a, b, c = start(cluster, "abc")
    for node in (a, b, c):
        seen = {item["name"]: item for item in node.cli("nodes").items()}
        assert set(seen) == {"a", "b", "c"}
        assert all(item["alive"] for item in seen.values())
        assert {item["address"] for item in seen.values()} == {a.address, b.address, c.address}


def test_the_dead_and_the_silent_are_noticed_and_used_again_when_they_return(cluster):
    a, b, c = start(cluster, "abc")
    b.kill()
    c.pause()
    cluster.wait_for(lambda: not alive(a, b), what="a to notice that b is dead")
    cluster.wait_for(lambda: not alive(a, c), what="a to notice that c is silent")
    a.cli("create", "late", cluster.tree("late", {"f": "late"}), "--replicas", "all")
    c.resume()
    b.restart()
    cluster.wait_for(lambda: has(b, "late") and has(c, "late"), what="both to get what they missed")
    assert b.cli("cat", "late/f").stdout == "late"
    assert alive(a, b)
    assert alive(a, c)


def test_a_node_that_moved_is_found_at_its_new_address(cluster):
    a, b = start(cluster, "ab")
    old = b.address
    b.restart(node_listen="127.0.0.2:0", node_bittorrent="127.0.0.2:0")
    cluster.together()
    assert b.address != old
    assert b.address.startswith("127.0.0.2:")
    assert {item["address"] for item in a.cli("nodes").items() if item["name"] == "b"} == {b.address}
    a.cli("create", "s", cluster.tree("s", {"f": "moved"}), "--replicas", "all", "--wait")
    assert b.cli("cat", "s/f").stdout == "moved"


def test_the_first_node_finds_the_others_again_although_its_own_seeds_name_nobody(cluster):
    a, b, _ = start(cluster, "abc")
    assert a.settings.get("cluster.peers") is None
    cluster.wait_for(lambda: {item["name"] for item in a.nodes() if item["alive"]} == {"a", "b", "c"})
    a.stop()
    a.restart()
    cluster.together()
    assert alive(b, a)


def test_a_cluster_that_was_down_as_a_whole_finds_together_again(cluster):
    a, b = start(cluster, "ab")
    cluster.wait_for(lambda: alive(a, b), what="a to know b")
    before = (a.address, b.address)
    b.stop()
    a.kill()
    a.restart()
    b.restart()
    assert (a.address, b.address) == before, "the ports that were picked once are kept"
    cluster.together()


def test_clusters_with_different_keys_never_mix_though_they_name_each_other(cluster):
    a = cluster.start("a", node_listen=f"127.0.0.1:{free_port()}")
    other = cluster.root / "other.key"
    cluster.make_key(other)
    x = cluster.start("x", cluster_key_file=str(other), cluster_peers=f'["{a.address}"]')
    a.restart(cluster_peers=f'["{x.address}"]')
    y = cluster.start("y", cluster_key_file=str(other), cluster_peers=f'["{a.address}", "{x.address}"]')
    cluster.together(x, y)
    a.cli("create", "secret", cluster.tree("s", {"f": "x"}), "--share", "public", "--replicas", "all")
    cluster.wait_for(lambda: x.status()["directory_age_seconds"] < 5)
    assert [item["name"] for item in a.cli("nodes").items()] == ["a"]
    assert {item["name"] for item in x.cli("nodes").items()} == {"x", "y"}
    for stranger in (x, y):
        assert stranger.cli("show", "secret", check=False).returncode == 3
        assert stranger.cli("list").items() == []


def test_an_admitted_node_joins_and_a_revoked_one_is_shut_out(cluster):
    a, b = start(cluster, "ab")
    admitted = subprocess.run(
        [CACHED, "cluster", "admit", "--key-file", str(cluster.key_file)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "authority" not in json.loads(admitted)
    card = cluster.root / "card.key"
    card.write_text(admitted)
    card.chmod(0o600)
    c = cluster.start("c", cluster_key_file=str(card))
    cluster.together()
    a.cli("create", "s", cluster.tree("s", {"f": "for members"}), "--replicas", "all", "--wait")
    assert c.cli("cat", "s/f").stdout == "for members"

    for node in (a, b):
        key = node.directory / "key"
        subprocess.run(
            [CACHED, "cluster", "revoke", c.id, "--key-file", str(key)], check=True, capture_output=True
        )
    cluster.wait_for(
        lambda: all(c.id not in {i["id"] for i in node.nodes()} for node in (a, b)),
        what="c to be shut out",
    )
    a.cli("create", "t", cluster.tree("t", {"f": "without c"}), "--replicas", "all", "--wait")
    assert has(b, "t")
    assert c.cli("show", "t", check=False).returncode == 3


def test_nodes_that_want_one_name_get_different_ones(cluster):
    a = cluster.start("a", node_name="same")
    b = cluster.start("b", node_name="same")
    cluster.together()
    cluster.wait_for(lambda: len({a.status()["name"], b.status()["name"]}) == 2, what="different names")
    names = {a.status()["name"], b.status()["name"]}
    assert "same" in names
    for node in (a, b):
        cluster.wait_for(lambda node=node: {i["name"] for i in node.nodes()} == names)


def test_a_node_that_nobody_can_dial_still_takes_part(cluster):
    a, b = start(cluster, "ab")
    hidden = cluster.start("hidden", node_advertise=f"127.0.0.1:{free_port()}")
    cluster.together()

    def seen(node):
        found = [item for item in node.nodes() if item["id"] == hidden.id]
        return bool(found) and found[0]["attributes"].get("Reachable") is False

    cluster.wait_for(lambda: seen(a) and seen(b) and seen(hidden), what="all to know that nobody can dial it")
    a.cli("create", "in", cluster.tree("in", {"f": "inwards"}), "--replicas", "all", "--wait")
    assert hidden.cli("cat", "in/f").stdout == "inwards"
    hidden.cli("create", "out", cluster.tree("out", {"f": "outwards"}), "--replicas", "all", "--wait")
    assert has(a, "out")
    assert has(b, "out")
    assert b.cli("cat", "out/f").stdout == "outwards"
    torrent = ("--replicas", "all", "--methods", "bittorrent", "--wait")
    hidden.cli("create", "swarm", cluster.tree("swarm", {"f": b"s" * 3_000_000}), *torrent)
    a.cli("create", "swarm-in", cluster.tree("swarm-in", {"f": b"t" * 3_000_000}), *torrent)
    assert has(b, "swarm")
    assert has(hidden, "swarm-in")
    hidden.cli("extend", "in", "2d", "--everywhere")
    a.cli("delete", "out", "--everywhere")
    cluster.wait_for(lambda: hidden.show("out") == {}, what="the deletion to reach the hidden node")

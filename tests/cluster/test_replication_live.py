"""Copies made, kept, moved by either method, resumed, refused, and found again."""

from __future__ import annotations

import json

import pytest
from tests.cluster.kit import alive, contents, has, holders, noise, present, start, states, trees

pytestmark = pytest.mark.daemon

MB = 1_000_000


def test_a_set_has_as_many_copies_as_its_owner_wants(cluster):
    a, b, c = start(cluster, "abc")
    data = cluster.tree("data", {"x/y": noise(20_000), "run": b"#!/bin/sh\n", "empty": b"", "hollow/": b""})
    (data / "run").chmod(0o755)
    a.cli("create", "none", data, "--replicas", "0", "--wait")
    a.cli("create", "one", data, "--replicas", "1", "--wait")
    a.cli("create", "every", data, "--replicas", "all", "--wait")
    assert holders(a, "every") == {"a", "b", "c"}
    assert len(holders(a, "one")) == 2
    assert holders(a, "none") == {"a"}
    # Three sets, one content: it lies once on each node.
    assert [len(contents(node)) for node in (a, b, c)] == [1, 1, 1]
    a.cli("replicate", "none", "--replicas", "all", "--wait")
    assert holders(a, "none") == {"a", "b", "c"}
    out = cluster.root / "out"
    c.cli("get", "none", out)
    assert (out / "x/y").read_bytes() == noise(20_000)
    assert (out / "run").stat().st_mode & 0o111
    assert (out / "empty").read_bytes() == b""
    assert (out / "hollow").is_dir()
    assert not trees(b) + trees(c)


def test_the_number_of_copies_is_kept_when_a_holder_dies(cluster):
    nodes = dict(zip("abc", start(cluster, "abc"), strict=True))
    a = nodes["a"]
    a.cli("create", "s", cluster.tree("s", {"f": noise(10_000)}), "--replicas", "1", "--wait")
    (first,) = holders(a, "s") - {"a"}
    (other,) = {"b", "c"} - {first}
    nodes[first].kill()
    cluster.wait_for(lambda: has(nodes[other], "s"), what="another node to take over the copy")
    nodes[first].restart()
    cluster.together()
    assert a.cli("verify", "s").json()["ok"]
    assert nodes[first].cli("verify", "s").json()["ok"]


def test_a_job_brings_the_set_to_its_node_unless_it_says_no(cluster):
    a, b = start(cluster, "ab")
    a.cli("create", "s", cluster.tree("s", {"f": "content"}), "--replicas", "0", "--wait")
    cluster.wait_for(lambda: b.show("s"), what="b to hear of the set")
    assert b.cli("exec", "--no-fetch", "s", "--", "true", check=False).returncode == 3
    assert states(b, "s") == {"a": "COMMITTED"}
    ran = b.cli("exec", "s", "--", "sh", "-c", 'cat "$CACHED_S/f" {s}/f')
    assert ran.stdout == "contentcontent"
    cluster.wait_for(lambda: states(a, "s") == {"a": "COMMITTED", "b": "COMMITTED"})


def test_a_fetch_shows_how_far_it_is(cluster):
    a = cluster.start("a", replication_upload_limit="4MB")
    b = cluster.start("b")
    cluster.together()
    a.cli(
        "create",
        "s",
        cluster.tree("s", {"f": noise(6 * MB)}),
        "--replicas",
        "0",
        "--methods",
        "bittorrent",
        "--wait",
    )
    cluster.wait_for(lambda: b.show("s"))
    seen = []
    with b.client() as client:
        client.fetch("s", progress=seen.append)
    present = [one.bytes_present for one in seen if one.bytes_wanted == 6 * MB]
    assert any(0 < one < 6 * MB for one in present)
    assert present == sorted(present)


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_either_method_can_be_forced_by_the_set_and_by_the_node(cluster, method):
    a, b, c = start(cluster, "abc")
    d = cluster.start("d", replication_methods=json.dumps([method]))
    cluster.together()
    data = cluster.tree("s", {"big": noise(3 * MB), "small": b"1", "d/e": noise(100_000, 1)})
    a.cli("create", "forced", data, "--methods", method, "--replicas", "all", "--wait")
    free = cluster.tree("t", {"big": noise(3 * MB, 2), "small": b"2"})
    a.cli("create", "free", free, "--replicas", "0", "--wait")
    a.cli("replicate", "free", "--to", "d", "--wait")
    other = {"direct": "bittorrent", "bittorrent": "direct"}[method]
    a.cli("create", "never", cluster.tree("u", {"f": b"3"}), "--methods", other, "--replicas", "0", "--wait")
    refused = a.cli("replicate", "never", "--to", "d", "--wait", check=False)
    assert refused.returncode == 5
    assert "method" in refused.stderr
    for node in (b, c, d):
        assert node.cli("verify", "forced").json()["ok"]
    moved = {node.name: traffic(node) for node in (b, c, d)}
    assert all(set(found["forced"]) == {method} for found in moved.values()), moved
    assert set(moved["d"]["free"]) == {method}


def traffic(node) -> dict[str, dict[str, int]]:
    """Return set name -> method -> bytes received, of those that brought any."""
    return {
        one["name"]: {
            method: figures["bytes_received"]
            for method, figures in one["methods"].items()
            if figures["bytes_received"]
        }
        for one in node.status()["traffic"]
    }


@pytest.mark.parametrize("sides", [("off", "off"), ("tls", "off"), ("off", "tls")])
def test_encryption_may_be_off_and_the_stricter_side_wins(cluster, sides):
    a = cluster.start("a", replication_encryption=sides[0])
    b = cluster.start("b", replication_encryption=sides[1])
    cluster.together()
    a.cli(
        "create",
        "s",
        cluster.tree("s", {"f": noise(2 * MB)}),
        "--replicas",
        "all",
        "--methods",
        "bittorrent",
        "--wait",
    )
    a.cli("create", "t", cluster.tree("t", {"f": noise(2 * MB, 1)}), "--replicas", "all", "--wait")
    assert b.cli("verify", "s").json()["ok"]
    assert b.cli("verify", "t").json()["ok"]


def test_a_large_set_leaves_the_source_about_once_for_four_receivers(cluster):
    a, *others = start(cluster, "abcde")
    size = 100 * MB
    data = cluster.tree("s", {f"part{n}": noise(size // 4, n) for n in range(4)})
    a.cli("create", "s", data, "--replicas", "all", "--methods", "bittorrent", "--wait")
    assert holders(a, "s") == {"a", "b", "c", "d", "e"}
    (sent,) = [one for one in a.status()["traffic"] if one["name"] == "s"]
    assert sent["bytes_sent"] < 2 * size, sent
    for node in others:
        assert node.cli("verify", "s").json()["ok"]


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_thousands_of_small_files_and_no_file_at_all_travel_too(cluster, method):
    a, b, c = start(cluster, "abc")
    many = {f"d{n % 50}/f{n}": b"%d" % n * (n % 40) for n in range(5000)}
    a.cli("create", "many", cluster.tree("many", many), "--methods", method, "--replicas", "all", "--wait")
    a.cli("create", "void", cluster.tree("void", {}), "--methods", method, "--replicas", "all", "--wait")
    a.cli(
        "create",
        "empty",
        cluster.tree("empty", {"f": b""}),
        "--methods",
        method,
        "--replicas",
        "all",
        "--wait",
    )
    for node in (b, c):
        assert has(node, "void")
        assert node.cli("cat", "empty/f").stdout == ""
        assert node.cli("verify", "many").json()["ok"]
    assert len(c.cli("files", "many").items()) == 5050
    assert c.cli("cat", "many/d39/f39").stdout == "39" * 39


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_a_receiver_killed_in_the_middle_goes_on_where_it_was(cluster, method):
    a = cluster.start("a", replication_upload_limit="4MB")
    b = cluster.start("b")
    cluster.together()
    size = 24 * MB
    a.cli("create", "s", cluster.tree("s", {"f": noise(size)}), "--replicas", "all", "--methods", method)
    cluster.wait_for(lambda: size / 4 < present(b, "s") < size, what="b to be in the middle")
    b.kill()
    b.restart()
    cluster.wait_for(lambda: has(b, "s"), what="b to finish")
    assert b.cli("verify", "s").json()["ok"]
    (found,) = [one for one in b.status()["traffic"] if one["name"] == "s"]
    assert found["bytes_received"] < size * 0.9, "what had arrived before the kill came once more"
    cluster.wait_for(lambda: not trees(b), what="nothing to be left in staging")


def test_when_the_originator_is_gone_another_holder_goes_on(cluster):
    a, b, c = start(cluster, "abc")
    a.cli("create", "s", cluster.tree("s", {"f": noise(MB)}), "--replicas", "all", "--wait")
    a.kill()
    cluster.wait_for(lambda: not alive(b, a) and not alive(c, a), what="a to be missed")
    d = cluster.start("d", cluster_peers=json.dumps([b.address]))
    cluster.wait_for(lambda: has(d, "s"), what="the newcomer to get a copy")
    assert d.cli("verify", "s").json()["ok"]
    assert b.cli("show", "s").json()["originator"] == "a"


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_transfers_under_way_are_finished_from_another_holder_when_the_source_dies(cluster, method):
    a = cluster.start("a", replication_upload_limit="5MB")
    b, c, d = (cluster.start(name) for name in "bcd")
    cluster.together()
    data = cluster.tree("s", {"f": noise(20 * MB)})
    a.cli("create", "s", data, "--methods", method, "--replicas", "0", "--wait")
    c.pause()
    d.pause()
    a.cli("replicate", "s", "--to", "b", "--wait")
    b.pause()
    c.resume()
    d.resume()
    cluster.wait_for(lambda: alive(a, c) and alive(a, d), what="a to see c and d again")
    a.cli("update", "s", "--replicas", "all")
    cluster.wait_for(
        lambda: 0 < present(c, "s") < 20 * MB or 0 < present(d, "s") < 20 * MB, what="a part to be there"
    )
    a.kill()
    b.resume()
    cluster.wait_for(lambda: has(c, "s") and has(d, "s"), what="c and d to finish from b")
    assert c.cli("verify", "s").json()["ok"]
    assert d.cli("verify", "s").json()["ok"]


def test_refusals_are_listed_by_a_replicate_that_waits(cluster):
    a = cluster.start("a")
    b = cluster.start("b")
    frugal = cluster.start("frugal", policy_quota="1MB")
    small = cluster.start("small", store_capacity="2MB")
    picky = cluster.start("picky", policy_requirements='TARGET.Owner == "nobody"')
    cluster.together()
    a.cli("create", "s", cluster.tree("s", {"f": noise(4 * MB)}), "--replicas", "0", "--wait")
    ended = a.cli("replicate", "s", "--replicas", "all", "--wait", "--timeout", "30s", check=False)
    assert ended.returncode == 5, ended
    refused = {item["node"]: item["reason"] for item in ended.json()["items"] if item["state"] == "REJECTED"}
    assert "quota" in refused["frugal"], refused
    assert has(b, "s")
    for unwilling in (small, picky):
        assert not states(unwilling, "s").get(unwilling.name)
        said = a.cli("replicate", "s", "--to", unwilling.name, "--wait", check=False)
        assert said.returncode == 5, said
        assert said.error["message"].startswith(unwilling.name)
    assert "Owner" in a.cli("replicate", "s", "--to", "picky", "--wait", check=False).error["message"]
    for unwilling in (frugal, small, picky):
        assert not contents(unwilling)


def test_a_copy_can_be_sent_to_one_named_node(cluster):
    a, b, c = start(cluster, "abc")
    a.cli("create", "s", cluster.tree("s", {"f": "here"}), "--replicas", "0", "--wait")
    a.cli("replicate", "s", "--to", "b", "--wait", "--timeout", "30s")
    assert has(b, "s")
    assert not has(c, "s")
    b.cli("replicate", "s", "--to", "c", "--wait", "--timeout", "30s")
    assert has(c, "s")
    assert a.cli("replicate", "s", "--to", "nobody", check=False).returncode == 3


def test_ten_nodes_that_join_at_once_all_get_the_set(cluster):
    a = cluster.start("a")
    a.cli("create", "s", cluster.tree("s", {"f": noise(2 * MB)}), "--replicas", "all")
    joining = [cluster.start(f"n{number}", wait=False) for number in range(10)]
    for node in joining:
        node.wait_ready()
    cluster.wait_for(lambda: len(holders(a, "s")) == 11, what="all to hold it")
    assert all(node.cli("cat", "s/f", text=False).stdout == noise(2 * MB) for node in joining[:2])


def test_the_same_name_from_two_places_is_ambiguous_and_both_can_be_named(cluster):
    a = cluster.start("a")
    b = cluster.start("b", cluster_peers="[]")
    for node in (a, b):
        data = cluster.tree(f"of-{node.name}", {"f": node.name})
        node.cli("create", "twin", data, "--replicas", "0", "--wait")
    b.restart(cluster_peers=json.dumps([a.address]))
    cluster.together()
    cluster.wait_for(lambda: a.cli("show", "twin", check=False).returncode != 0, what="a to hear of b's set")
    ended = a.cli("show", "twin", check=False)
    assert ended.error["code"] == "ambiguous_name"
    assert {one["name"].rpartition("@")[2] for one in ended.error["details"]["candidates"]} == {"a", "b"}
    assert a.cli("cat", "twin@b/f").stdout == "b"
    assert b.cli("cat", "twin@a/f").stdout == "a"
    assert (
        a.cli("create", "twin", cluster.tree("third", {"f": "3"}), check=False).error["code"] == "name_taken"
    )

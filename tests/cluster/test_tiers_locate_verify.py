"""Copies in memory, where the data lies, and bytes that rot or vanish."""

from __future__ import annotations

import json
import shutil
import urllib.parse

import pytest
from tests.cluster.kit import contents, has, noise, start, states, trees

pytestmark = pytest.mark.daemon

MB = 1_000_000


def test_memory_copies_are_volatile_elsewhere_and_besides_the_disk_at_home(cluster):
    a, b = start(cluster, "ab")
    a.cli(
        "create",
        "s",
        cluster.tree("s", {"f": noise(MB), "g": b""}),
        "--tier",
        "memory",
        "--replicas",
        "all",
        "--wait",
    )
    replicas = {item["node"]: item for item in a.show("s")["replicas"]}
    assert (replicas["a"]["volatile"], replicas["a"]["tier"]) == (False, "memory")
    assert (replicas["b"]["volatile"], replicas["b"]["tier"]) == (True, "memory")
    assert len(contents(a)) == 1
    assert contents(b) == []
    assert len(list((b.memory / "contents").iterdir())) == 1
    assert b.cli("cat", "s/f", text=False).stdout == noise(MB)
    copied = next((b.memory / "contents").glob("*/data/f")).stat()
    assert copied.st_blocks * 512 >= copied.st_size, "a sparse file may fail its reader"
    # The memory is gone, as after a boot: no harm, and the copies come back.
    for node in (a, b):
        node.kill()
        shutil.rmtree(node.memory / "contents")
    a.restart()
    assert a.cli("cat", "s/f", text=False).stdout == noise(MB)
    b.restart()
    cluster.wait_for(lambda: has(b, "s"), what="b to hold it again")
    assert b.cli("cat", "s/f", text=False).stdout == noise(MB)


def test_memory_that_is_full_or_missing_refuses_in_words(cluster):
    a = cluster.start("a")
    tight = cluster.start("tight", store_memory_capacity="1MB")
    none = cluster.start("none", store_memory="")
    cluster.together()
    data = cluster.tree("s", {"f": noise(3 * MB)})
    a.cli("create", "s", data, "--tier", "memory", "--replicas", "all")
    for node in (tight, none):
        ended = a.cli("replicate", "s", "--to", node.name, "--wait", check=False)
        assert ended.returncode == 5, ended
        assert "memory" in ended.error["message"].lower(), ended
        assert not contents(node)
    for node in (tight, none):
        assert node.cli("create", "mine", data, "--tier", "memory", check=False).returncode == 5
        assert not trees(node)


def test_any_node_tells_where_the_data_is_best_node_first(cluster):
    a, b, c = start(cluster, "abc")
    d = cluster.start("d", policy_requirements='TARGET.Owner == "nobody"')
    cluster.together()
    a.cli("create", "big", cluster.tree("big", {"f": noise(3 * MB)}), "--replicas", "0", "--wait")
    a.cli("create", "small", cluster.tree("small", {"f": noise(1000)}), "--replicas", "0", "--wait")
    a.cli("replicate", "small", "--to", "b", "--wait")
    a.cli("replicate", "big", "--to", "c", "--wait")
    for node in (a, b, c, d):
        cluster.wait_for(
            lambda node=node: (
                [i["node"] for i in node.cli("locate", "big", "small").items()] == ["a", "c", "b", "d"]
            ),
            what=f"{node.name} to rank all nodes",
        )
    found = d.cli("locate", "big", "small").json()
    assert found["directory_age_seconds"] >= 0
    first, *_, last = found["items"]
    assert first["bytes_present"] == first["bytes_wanted"] == 3 * MB + 1000
    assert (first["estimate_seconds"], first["matches"]) == (0, True)
    assert (last["bytes_present"], last["matches"]) == (0, False)
    query = urllib.parse.urlencode([("name", "big"), ("name", "small")])
    twin = d.http("GET", f"/v1/locate?{query}").json()
    assert [i["node"] for i in twin["items"]] == ["a", "c", "b", "d"]
    ad = cluster.root / "job.ad"
    for text in (
        '[Requirements = TARGET.Name == MY.Where; Where = "b"]',
        'Requirements = TARGET.Name == "b"\n',
    ):
        ad.write_text(text)
        items = d.cli("locate", "big", "small", "--job-ad", ad).items()
        assert {i["node"]: i["matches"] for i in items} == {"a": False, "b": True, "c": False, "d": False}
    ad.write_text("no ad")
    assert d.cli("locate", "big", "--job-ad", ad, check=False).error["code"] == "bad_expression"
    assert d.cli("locate", "nothing", check=False).returncode == 3


def test_rot_is_found_named_and_repaired_from_another_holder(cluster):
    a, b = start(cluster, "ab")
    data = {"dir/f": noise(MB), "g": noise(50_000, 1), "h": b"short"}
    a.cli("create", "s", cluster.tree("s", data), "--replicas", "all", "--wait")
    (rotten,) = (b.disk / "contents").glob("*/data/dir/f")
    with rotten.open("r+b") as file:
        file.seek(500_000)
        byte = file.read(1)
        file.seek(500_000)
        file.write(bytes([byte[0] ^ 1]))
    found = b.cli("verify", "s", check=False)
    assert found.returncode == 7
    assert [one["path"] for one in found.json()["damaged"]] == ["dir/f"]
    mended = b.cli("verify", "s", "--repair").json()
    assert mended["ok"]
    counted = b.status()["counters"]
    # Either this command repaired it, or the node itself did, in the background, between the two commands: counted both times.
    if [(one["path"], one["repaired"]) for one in mended["damaged"]] != [("dir/f", True)]:
        assert mended["damaged"] == []
    assert counted["bytes_damaged"] >= 1
    assert counted["bytes_repaired"] == counted["bytes_damaged"], "what was found was repaired"
    assert b.cli("verify", "s").json()["damaged"] == []
    assert b.cli("cat", "s/dir/f", text=False).stdout == rotten.read_bytes() == noise(MB)
    assert not trees(b)


def test_bytes_that_vanished_are_fetched_again(cluster):
    a, b = start(cluster, "ab")
    a.cli("create", "s", cluster.tree("s", {"f": noise(MB)}), "--replicas", "all", "--wait")
    b.stop()
    shutil.rmtree(b.disk)
    b.restart()
    cluster.wait_for(lambda: has(b, "s") and contents(b), what="b to fetch it again")
    assert b.cli("cat", "s/f", text=False).stdout == noise(MB)
    assert b.cli("verify", "s").json()["ok"]
    # The originator's copy is no other: it comes back from its own replica elsewhere.
    a.kill()
    shutil.rmtree(a.disk / "contents")
    a.restart()
    cluster.wait_for(lambda: has(a, "s") and contents(a), what="a to fetch it back")
    assert a.cli("verify", "s").json()["ok"]
    assert states(a, "s") == {"a": "COMMITTED", "b": "COMMITTED"}


def test_a_lost_database_costs_no_bytes(cluster):
    a, b = start(cluster, "ab")
    a.cli(
        "create", "s", cluster.tree("s", {"f": noise(MB)}), "--replicas", "all", "--share", "public", "--wait"
    )
    for node in (b, a):
        before = node.show("s")
        node.kill()
        for path in node.state.glob("catalog.db*"):
            path.unlink()
        node.restart()
        cluster.wait_for(lambda node=node: has(node, "s"), what=f"{node.name} to adopt its set")
        after = node.show("s")
        same = ("id", "owner", "content", "share", "requirements", "originator", "state")
        assert {key: after[key] for key in same} == {key: before[key] for key in same}
        moved = [one for one in node.status()["traffic"] if one["bytes_received"]]
        assert not moved, "the bytes were there all the time"


def test_two_nodes_may_be_told_of_by_json_alone(cluster):
    a, b = start(cluster, "ab")
    listed = json.loads(b.cli("nodes", "--json").stdout)["items"]
    keys = {"name", "id", "host", "address", "alive", "capacity_bytes", "free_bytes", "sets", "attributes"}
    assert all(keys <= item.keys() for item in listed)
    assert {item["name"] for item in listed} == {a.name, b.name}

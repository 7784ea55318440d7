"""Both sides agree before a byte moves, and `match` says which side does not, and why."""

from __future__ import annotations

import pytest
from tests.cluster.kit import contents, has, holders, noise, start, trees

pytestmark = pytest.mark.daemon

#: Holds an evaluation for seconds, where nothing stops it.
SLOW = 'size(strcat({})) > 0 || regexp("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")'


def test_match_names_the_side_and_the_attribute_for_each_node(cluster):
    a = cluster.start("a", attributes_Site='"home"')
    cluster.start("far", attributes_Site='"moon"')
    cluster.start("shy", attributes_Site='"home"', policy_requirements='TARGET.Owner == "nobody"')
    cluster.start("full", attributes_Site='"home"', store_capacity="1MB")
    cluster.start("plain")
    cluster.together()
    data = cluster.tree("s", {"f": noise(3_000_000)})
    a.cli("create", "s", data, "--requirements", 'TARGET.Site == "home"', "--replicas", "all", "--wait")
    found = {item["node"]: item for item in a.cli("match", "s").items()}
    assert {name: item["matches"] for name, item in found.items()} == {
        "a": True, "far": False, "shy": False, "full": False, "plain": False,
    }  # fmt: skip
    sides = {name: (item["set_side"], item["node_side"]) for name, item in found.items()}
    assert sides["far"] == sides["plain"] == (False, True)
    assert sides["shy"] == (True, False)
    words = {name: " ".join(item["reasons"]) for name, item in found.items()}
    assert "Site" in words["far"]
    assert "moon" in words["far"]
    assert "Site" in words["plain"]
    assert "undefined" in words["plain"] or "missing" in words["plain"] or "no attribute" in words["plain"]
    assert "Owner" in words["shy"]
    assert "of disk" in words["full"]
    assert words["a"] == ""
    assert holders(a, "s") == {"a"}
    for name in ("far", "shy", "full", "plain"):
        assert not contents(cluster.nodes[name])
        assert not trees(cluster.nodes[name])
    # Asking from a node that refuses gives no bytes either, with words.
    refused = cluster.nodes["far"].cli("get", "s", cluster.root / "out", check=False)
    assert refused.returncode == 5
    assert "Site" in refused.stderr


def test_new_requirements_send_the_set_to_the_nodes_that_match_now(cluster):
    a = cluster.start("a")
    b = cluster.start("b", attributes_Kind="1")
    c = cluster.start("c", attributes_Kind="2")
    cluster.together()
    data = cluster.tree("s", {"f": "x"})
    a.cli("create", "s", data, "--requirements", "TARGET.Kind == 1", "--replicas", "all", "--wait")
    assert has(b, "s")
    assert not has(c, "s")
    a.cli("update", "s", "--requirements", "TARGET.Kind >= 1")
    cluster.wait_for(lambda: has(c, "s"), what="c to match and to get it")
    broken = a.cli("update", "s", "--requirements", "TARGET.Kind >=", check=False)
    assert broken.returncode == 2


def test_a_hostile_policy_stops_nobody(cluster):
    a, b = start(cluster, "ab")
    heavy = "strcat(" + ", ".join(["TARGET.A"] * 8) + ")"
    spiral = {f"attributes_A{n}": heavy.replace("TARGET.A", f"A{n - 1}") for n in range(1, 9)}
    cluster.start(
        "hostile", attributes_A0='"xxxxxxxxxxxxxxxx"', **spiral, policy_requirements="size(A8) > 0", wait=True
    )
    cluster.together()
    a.cli("create", "s", cluster.tree("s", {"f": "x"}), "--replicas", "all")
    for _ in range(40):  # each is answered within the client's patience, or raises
        assert a.http("GET", "/v1/sets").status == 200
    cluster.wait_for(lambda: has(b, "s"), what="b to be served all the same")
    found = {item["node"]: item for item in a.cli("match", "s").items()}
    assert found["b"]["matches"]
    assert not found["hostile"]["matches"]
    assert "node hostile" in " ".join(found["hostile"]["reasons"]), (
        "it is stopped, and named as the one to blame"
    )
    for text in (SLOW, "random() > 0.5", "x" * 5000):
        assert (
            a.cli("create", "t", cluster.tree("t", {}), "--requirements", text, check=False).returncode == 2
        )

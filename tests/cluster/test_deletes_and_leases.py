"""What is deleted stays deleted, also for who was away; leases are promises of each node."""

from __future__ import annotations

import sqlite3
import time

import pytest
from tests.cluster.kit import contents, has, holders, noise, start, states, trees

pytestmark = pytest.mark.daemon


def test_who_was_away_when_a_set_was_deleted_drops_it_before_anything_else(cluster):
    a, b, c, d = start(cluster, "abcd")
    a.cli(
        "create",
        "s",
        cluster.tree("s", {"f": noise(50_000)}),
        "--share",
        "public",
        "--replicas",
        "all",
        "--wait",
    )
    a.cli("create", "kept", cluster.tree("kept", {"f": "kept"}), "--replicas", "all", "--wait")
    c.kill()
    d.kill()
    told = a.cli("delete", "s", "--everywhere").json()
    assert {item["node"]: item["action"] for item in told["items"]}["a"] == "deleted"
    assert told["state"] == "DELETED"
    cluster.wait_for(lambda: not b.show("s"), what="b to drop it")
    a.kill()  # the deletion lives on without the node that began it
    for node in (c, d):
        node.restart()
        # The very first answer of the returning node: it serves nothing that was deleted meanwhile.
        assert node.cli("cat", "s/f", check=False).returncode == 3
        assert node.show("s") == {}
        assert node.cli("cat", "kept/f").stdout == "kept"
    a.restart()
    cluster.together()
    for node in (a, b, c, d):
        assert node.show("s") == {}
        cluster.wait_for(
            lambda node=node: len(contents(node)) == 1 and not trees(node), what="the space to return"
        )


def test_the_originator_that_was_away_does_not_bring_a_set_back(cluster):
    a, b, c = start(cluster, "abc")
    a.cli("create", "s", cluster.tree("s", {"f": "x"}), "--replicas", "all", "--wait")
    a.kill()
    b.cli("delete", "s", "--everywhere")
    cluster.wait_for(lambda: not c.show("s"), what="c to drop it")
    a.restart()
    assert a.show("s") == {}
    assert a.cli("cat", "s/f", check=False).returncode == 3
    cluster.wait_for(lambda: not contents(a), what="a to give the space back")


def test_a_holder_gives_up_its_copy_alone_and_the_originator_withdraws(cluster):
    a, b, c = start(cluster, "abc")
    a.cli("create", "s", cluster.tree("s", {"f": "x"}), "--replicas", "all", "--wait")
    b.cli("delete", "s")
    cluster.wait_for(lambda: not has(b, "s") and not contents(b), what="b to give it up")
    assert b.show("s")["state"] == "COMMITTED"
    cluster.wait_for(lambda: holders(a, "s") == {"a", "c"}, what="a to hear of it")
    assert a.cli("delete", "s").json()["state"] == "WITHDRAWN"
    cluster.wait_for(lambda: c.show("s").get("state") == "WITHDRAWN", what="c to hear of the withdrawal")
    assert c.cli("cat", "s/f").stdout == "x"
    late = cluster.start("late")
    cluster.together()
    cluster.wait_for(lambda: late.status()["sets"]["known"] == 1, what="the newcomer to hear of the set")
    assert late.cli("cat", "s/f", check=False).returncode == 3
    assert states(c, "s") == {"c": "COMMITTED"}


def test_each_holder_extends_as_its_own_policy_says(cluster):
    a = cluster.start("a", policy_max_lease="10d")
    short = cluster.start("short", policy_max_lease="1h", policy_default_lease="1h")
    cluster.together()
    a.cli("create", "s", cluster.tree("s", {"f": "x"}), "--lease", "30m", "--replicas", "all", "--wait")
    grants = {one["node"]: one for one in a.cli("extend", "s", "5d", "--everywhere").json()["grants"]}
    assert (grants["a"]["granted"], grants["a"]["shortened"]) == (True, False)
    assert (grants["short"]["granted"], grants["short"]["shortened"]) == (True, True)
    assert abs(grants["a"]["seconds"] - 5 * 86400) < 120
    assert abs(grants["short"]["seconds"] - 3600) < 120
    assert short.show("s")["lease"]["seconds_left"] < 3601
    assert a.show("s")["lease"]["seconds_left"] > 4 * 86400
    assert a.cli("extend", "s", "1h").json()["set"]["lease"]["seconds_left"] > 4 * 86400


def test_grants_are_renewed_while_the_set_s_lease_lasts_and_no_longer(cluster):
    a = cluster.start("a")
    b = cluster.start("b", policy_max_lease="20s", policy_default_lease="20s")
    cluster.together()
    a.cli("create", "long", cluster.tree("s", {"f": "x"}), "--lease", "1h", "--replicas", "all", "--wait")
    a.cli("create", "brief", cluster.tree("t", {"f": "y"}), "--lease", "45s", "--replicas", "all", "--wait")
    left, renewals = 20.0, 0
    while renewals < 2:  # each long before the grant is over
        before, left = left, b.show("long")["lease"]["seconds_left"]
        assert 0 < left <= 20
        renewals += left > before
        time.sleep(0.3)
    cluster.wait_for(
        lambda: states(b, "brief").get("b") == "EXPIRED", what="the grant to end with the set's lease"
    )
    assert b.cli("cat", "brief/f").stdout == "y"
    assert has(b, "long")


def test_sharing_changes_reach_every_node(cluster):
    a, b = start(cluster, "ab")
    folder = cluster.tree("s", {"f": "mine"})
    a.cli("create", "s", folder, "--replicas", "all", "--wait")
    other = 65533
    assert b.cli("cat", "s/f", user=other, check=False).returncode == 3
    a.cli("update", "s", "--share", "public")
    cluster.wait_for(
        lambda: b.cli("cat", "root:s/f", user=other, check=False).stdout == "mine", what="b to share it"
    )
    a.cli("update", "s", "--share", "private")
    cluster.wait_for(
        lambda: b.cli("cat", "root:s/f", user=other, check=False).returncode == 3, what="b to close it"
    )


def test_a_lost_database_does_not_bring_back_what_was_deleted_meanwhile(cluster):
    a, b = start(cluster, "ab")
    a.cli("create", "gone", cluster.tree("s", {"f": "x"}), "--replicas", "all", "--wait")
    a.cli("create", "kept", cluster.tree("t", {"f": "y"}), "--replicas", "all", "--wait")
    b.stop()
    a.cli("delete", "gone", "--everywhere")
    for path in b.state.glob("catalog.db*"):
        path.unlink()
    b.restart()
    cluster.wait_for(lambda: has(b, "kept"), what="b to adopt what it still has")
    assert b.show("gone") == {}
    assert b.cli("cat", "kept/f").stdout == "y"
    with sqlite3.connect(f"file:{b.state}/catalog.db?mode=ro", uri=True) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)

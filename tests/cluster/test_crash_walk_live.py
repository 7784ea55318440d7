"""A kill at every step of a replication, on either side: after a restart all is there, and nothing else."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from tests.cluster.kit import contents, has, holders, noise, start, trees

pytestmark = pytest.mark.daemon

RECEIVING = (
    "offer.reserved", "offer.accepted", "receive.metadata", "stage.prepared", "stage.sealed", "receive.prepared",
    "receive.transferred", "store.settled", "store.synced", "store.record", "store.renamed", "store.published",
    "receive.published", "receive.committed", "book.taken",
)  # fmt: skip
LEAVING = ("retire.going", "trash.renamed", "retire.trashed", "trash.unlinked", "trash.emptied", "retire.emptied", "retire.forgotten")  # fmt: skip
FILES = {"d/big": noise(300_000), "small": b"1", "empty": b"", "hollow/": b""}


def tidy(node) -> bool:
    """Tell whether nothing is left of anything unfinished."""
    tiers = node.status()["tiers"].values()
    return not trees(node) and not any(tier["reserved_bytes"] or tier["going_bytes"] for tier in tiers)


def armed(nodes, points) -> None:
    """Restart nodes, all at once, each with a kill at one point."""
    for node, point in zip(nodes, points, strict=False):
        node.restart(wait=False, env={"CACHED_FAULT": f"{point}:kill"})
    for node in nodes:
        node.wait_ready()


def test_receivers_killed_at_any_step_end_with_the_whole_set(cluster):
    a, *receivers = start(cluster, "abcd")
    for number in range(0, len(RECEIVING), len(receivers)):
        points = RECEIVING[number : number + len(receivers)]
        armed(receivers, points)
        cluster.together()
        name, method = f"s{number}", ("--methods", "direct") if number % 2 else ("--methods", "bittorrent")
        a.cli("create", name, cluster.tree(name, FILES | {"mark": name}), *method, "--replicas", "all")
        for node, point in zip(receivers, points, strict=True):
            assert node.wait_exit() == -9, point
            node.restart(wait=False)
        for node, point in zip(receivers, points, strict=True):
            node.wait_ready()
            cluster.wait_for(
                lambda node=node, name=name: has(node, name), what=f"the copy after a kill at {point}"
            )
            assert node.cli("verify", name).json()["ok"], point
            cluster.wait_for(lambda node=node: tidy(node), what=f"nothing to be left after a kill at {point}")
    assert {len(contents(node)) for node in (a, *receivers)} == {len(RECEIVING) // 3}
    assert holders(a, "s0") == {"a", "b", "c", "d"}


def test_a_source_killed_when_it_offers_makes_its_offer_again(cluster):
    a, b = start(cluster, "ab")
    a.restart(env={"CACHED_FAULT": "drive.offered:kill"})
    cluster.together()
    a.cli("create", "s", cluster.tree("s", FILES), "--replicas", "all")
    assert a.wait_exit() == -9
    a.restart()
    cluster.wait_for(lambda: has(b, "s"), what="b to get its copy")
    assert b.cli("verify", "s").json()["ok"]


def test_holders_killed_at_any_step_of_a_deletion_end_without_the_set(cluster):
    a, *others = start(cluster, "abcd")
    a.cli("create", "kept", cluster.tree("kept", FILES | {"mark": "kept"}), "--replicas", "all", "--wait")
    for number in range(0, len(LEAVING), len(others)):
        name, points = f"s{number}", LEAVING[number : number + len(others)]
        armed(others, points)
        cluster.together()
        a.cli("create", name, cluster.tree(name, FILES | {"mark": name}), "--replicas", "all", "--wait")
        a.cli("delete", name, "--everywhere")
        for node, point in zip(others, points, strict=False):
            assert node.wait_exit() == -9, point
            node.restart(wait=False)
        for node, point in zip(others, points, strict=False):
            node.wait_ready()
            assert node.show(name) == {}, point
            cluster.wait_for(
                lambda node=node: tidy(node) and len(contents(node)) == 1,
                what=f"the space after a kill at {point}",
            )
    assert all(node.cli("verify", "kept").json()["ok"] for node in others)


def test_a_renewal_cut_off_by_a_kill_is_made_again(cluster):
    a = cluster.start("a")
    b = cluster.start(
        "b", policy_max_lease="20s", policy_default_lease="20s", env={"CACHED_FAULT": "sweep.renewed:kill"}
    )
    cluster.together()
    a.cli("create", "s", cluster.tree("s", FILES), "--lease", "1h", "--replicas", "all", "--wait")
    assert b.wait_exit() == -9
    b.restart()
    cluster.wait_for(
        lambda: has(b, "s") and b.show("s")["lease"]["seconds_left"] > 10, what="a renewed grant"
    )


@pytest.fixture
def partition(cluster):
    """A small partition of its own."""
    place = cluster.root / "partition"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", place], check=True)
    yield place
    for node in cluster.nodes.values():
        if node.running:
            node.stop()
    subprocess.run(["umount", "--lazy", place], check=True)
    shutil.rmtree(place)


def test_daemons_that_share_a_partition_never_promise_the_same_space_twice(cluster, partition):
    a = cluster.start("a", replication_upload_limit="4MB")
    b = cluster.start("b", store_disk=f"{partition}/b", store_capacity="1GB")
    c = cluster.start("c", store_disk=f"{partition}/c", store_capacity="1GB")
    cluster.together()
    a.cli(
        "create", "s", cluster.tree("s", {"f": noise(36_000_000)}), "--methods", "direct", "--replicas", "0"
    )
    assert all(node.status()["tiers"]["disk"]["capacity_bytes"] <= 64 << 20 for node in (b, c))
    a.cli("replicate", "s", "--to", "b")  # 36 MB are promised, and hardly any are written yet
    cluster.wait_for(
        lambda: c.status()["tiers"]["disk"]["free_bytes"] < 36_000_000, what="c to see what b promised"
    )
    assert a.cli("replicate", "s", "--to", "c", check=False).returncode == 5
    own = cluster.tree("own", {"f": noise(36_000_000, 1)})
    assert c.cli("create", "own", own, "--replicas", "0", check=False).error["code"] == "no_space"
    cluster.wait_for(lambda: has(b, "s"), what="b to finish what it promised")
    assert b.cli("verify", "s").json()["ok"]
    assert not list((partition / "c" / "contents").iterdir())
    a.cli("delete", "s", "--everywhere")
    cluster.wait_for(
        lambda: c.status()["tiers"]["disk"]["free_bytes"] > 50_000_000, what="the space to return"
    )
    c.cli("create", "own", own, "--replicas", "0", "--wait")
    # A promise outlives a kill in the middle of it, though the partition has no room for it twice.
    b.cli("delete", "own", check=False)
    c.cli("delete", "own", "--everywhere")
    cluster.wait_for(
        lambda: b.status()["tiers"]["disk"]["free_bytes"] > 50_000_000, what="the space to return"
    )
    a.cli(
        "create",
        "t",
        cluster.tree("t", {"f": noise(36_000_000, 2)}),
        "--methods",
        "direct",
        "--replicas",
        "0",
    )
    # What a has heard of b's space may be some seconds old.
    cluster.wait_for(
        lambda: a.cli("replicate", "t", "--to", "b", check=False).returncode == 0, what="b to agree"
    )
    cluster.wait_for(
        lambda: any(one["bytes_present"] > 9_000_000 for one in b.status()["transfers"]), what="a part"
    )
    b.kill()
    b.restart()
    cluster.wait_for(lambda: has(b, "t"), what="b to go on")
    assert b.cli("verify", "t").json()["ok"]

"""A set that only Cloud Storage has, wanted by many nodes: real daemons, the real client, a fake that counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.kit import has, noise, start
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = pytest.mark.daemon

MIB = 1 << 20
FILES = {
    "big": noise(40 * MIB, 1),
    "d/half": noise(20 * MIB, 2),
    **{f"s/{n}": noise(40_000, n) for n in range(50)},
}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        yield remote
        assert not remote.errors


def cluster_of(cluster, fake, names):
    return start(
        cluster,
        names,
        origin_buckets="data=*",
        origin_endpoint=fake.url,
        origin_readers="3",
        store_capacity="1GB",
    )


def keep(cluster, node) -> None:
    """Have a set kept in the origin and nowhere else."""
    node.cli("create", "seed", cluster.tree("seed", FILES), "--origin", "gs://data/out", "--replicas", "0")
    node.cli("delete", "seed", "--everywhere")
    cluster.wait_for(lambda: not list((node.disk / "contents").iterdir()), what="the seed to be gone")


def description(fake) -> int:
    return sum(len(fake.get("data", name)) for name in fake.names("data") if "/.cached/" in name)


def test_eight_nodes_read_a_set_once_in_all(cluster, fake):
    nodes = cluster_of(cluster, fake, "abcdefgh")
    keep(cluster, nodes[0])
    before, fake.rate = fake.bytes_out, 12e6
    nodes[0].cli("create", "nr", "--from-set", "gs://data/out", "--replicas", "all")
    cluster.wait_for(lambda: all(has(node, "nr") for node in nodes), what="all copies")
    read = [node.status()["counters"].get("origin.set_bytes_read", 0) for node in nodes]
    assert fake.bytes_out - before <= 1.02 * SIZE + 2 * description(fake), read
    assert 2 <= sum(bool(one) for one in read) <= 3, read
    assert all(node.cli("verify", "nr").json()["ok"] for node in nodes)


def test_a_killed_readers_share_is_read_by_the_others(cluster, fake):
    nodes = cluster_of(cluster, fake, "abcd")
    keep(cluster, nodes[0])
    before, fake.rate = fake.bytes_out, 6e6
    nodes[0].cli("create", "nr", "--from-set", "gs://data/out", "--replicas", "all")

    def readers():
        return [node for node in nodes[1:] if node.status()["counters"].get("origin.set_bytes_read", 0)]

    victim = cluster.wait_for(readers, what="another reader than the first node")[0]
    victim.kill()
    fake.rate = 30e6
    others = [node for node in nodes if node is not victim]
    cluster.wait_for(lambda: all(has(node, "nr") for node in others), what="the copies of those who live")
    assert all(node.cli("verify", "nr").json()["ok"] for node in others)
    lost = fake.bytes_out - before - SIZE - 2 * description(fake)
    assert lost <= 0.35 * SIZE  # what the dead one had read, and was reading
    victim.restart()
    cluster.wait_for(lambda: has(victim, "nr"), what="the copy of the one that came back")


def test_the_last_holder_is_lost_and_the_origin_gives_the_set_back(cluster, fake):
    a, b = cluster_of(cluster, fake, "ab")
    small = {"a": noise(2 * MIB, 7), "b/c": b"x"}
    made = a.cli(
        "create", "nr", cluster.tree("small", small), "--origin", "gs://data/small", "--replicas", "0"
    ).json()
    cluster.wait_for(lambda: b.show("nr").get("id") == made["id"], what="b to hear of it")
    a.kill()
    with b.client() as client, client.open("nr/a") as opened:
        assert opened.read() == small["a"]

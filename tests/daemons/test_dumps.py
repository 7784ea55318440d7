"""Python objects and whole localisations through real daemons, with the real client of a fake Cloud Storage."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cached.client import Client
from cached.errors import Forbidden
from tests.daemons.cluster import Cluster
from tests.daemons.node import Node, identity, program
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = pytest.mark.daemon

#: A user that every Debian has.
ANN = "games"

AS_ANN = """
import json, sys
import cached

def attempt(action):
    try:
        return repr(action())
    except cached.CachedError as error:
        return [error.code, error.message, error.hint]

client = cached.Client(sys.argv[1], timeout=120, token="")
print(json.dumps([
    attempt(lambda: client.load("gs://data/roots")),
    attempt(lambda: client.load("gs://data/roots", trust={"root"})),
    attempt(lambda: client.dump([4, 5], "gs://data/anns").name),
    attempt(lambda: client.load("gs://data/anns")),
]))
"""


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        yield remote
        assert not remote.errors


def started(cluster: Cluster, fake: RemoteFake, name: str) -> Node:
    return cluster.start(
        name,
        origin_endpoint=fake.url,
        store_capacity="2GB",
        objects_memory="60MB",
        objects_disk="500MB",
    )


def client_of(node: Node) -> Client:
    return Client(node.runtime, timeout=120, token="")


def mapped(node: Node) -> list[str]:
    """The node's files that this process has mapped, shared and for reading only."""
    with open("/proc/self/maps") as maps:
        return [
            line
            for line in maps
            if " r--s " in line and (f"{node.directory}/" in line or f"{node.memory}/" in line)
        ]


def test_an_array_dumped_on_one_node_is_a_view_of_shared_memory_on_another(cluster, fake):
    a, b = started(cluster, fake, "a"), started(cluster, fake, "b")
    cluster.together()
    array = np.random.default_rng(1).integers(0, 255, 6_000_000, dtype=np.uint8)
    with client_of(a) as client:
        client.dump({"array": array, "name": "x"}, "gs://data/model")
    with client_of(b) as client:
        first = client.load("gs://data/model")
        second = client.load("gs://data/model")
    assert first["name"] == "x"
    assert (first["array"] == array).all()
    assert (second["array"] == array).all()
    assert not first["array"].flags.writeable
    assert len(mapped(b)) == 2
    del first
    assert len(mapped(b)) == 1


def test_a_table_dumped_on_one_node_is_read_in_shared_memory_on_another(cluster, fake):
    a, b = started(cluster, fake, "a"), started(cluster, fake, "b")
    cluster.together()
    rows = range(200_000)
    table = pa.table({"n": rows, "kind": pa.array([f"kind {n % 7}" for n in rows]).dictionary_encode()})
    with client_of(a) as client:
        client.dump(table, "gs://data/table")
    with client_of(b) as client:
        loaded = client.load("gs://data/table")
    assert loaded.equals(table)
    spans = [line.split()[0].split("-") for line in mapped(b)]
    assert len(spans) == 1
    start, stop = (int(end, 16) for end in spans[0])
    for column in (loaded["n"].chunk(0), loaded["kind"].chunk(0).indices, loaded["kind"].chunk(0).dictionary):
        for buffer in (each for each in column.buffers() if each is not None):
            assert start <= buffer.address < buffer.address + buffer.size <= stop
            assert not buffer.is_mutable


def test_an_object_altered_in_cloud_storage_or_moved_there_is_not_unpickled(cluster, fake):
    node = started(cluster, fake, "a")
    with client_of(node) as client:
        view = client.dump([1, 2, 3], "gs://data/model")
        assert client.load("gs://data/model") == [1, 2, 3]
        data = fake.get("data", "model")
        metadata = client.stat_object("gs://data/model").metadata
        assert set(metadata) >= {"cached-dump"}
        fake.put("data", "moved", data, metadata=dict(metadata))
        fake.put("data", "model", data[:-1] + b"\x00", metadata=dict(metadata))
        for address in ("gs://data/moved", "gs://data/model"):
            with pytest.raises(Forbidden) as refused:
                client.load(address)
            assert "trust=" in refused.value.hint
        assert client.load("gs://data/moved", trust="anyone") == [1, 2, 3]
        assert view.generation != client.stat_object("gs://data/model").generation
    assert node.status()["counters"]["attest.refused"] == 2


@pytest.mark.root
def test_another_user_of_the_node_is_told_who_dumped_it_and_decides(cluster, fake):
    node = started(cluster, fake, "a")
    with client_of(node) as client:
        client.dump([1, 2, 3], "gs://data/roots")
        command, env = program(ANN)
        ended = subprocess.run(
            [command[0], "-c", AS_ANN, str(node.runtime)],
            capture_output=True,
            env=env,
            cwd="/",
            check=True,
            timeout=180,
            **identity(ANN),
        )
        refused, trusted, dumped, own = json.loads(ended.stdout)
        assert refused[0] == "forbidden"
        assert "was dumped by root" in refused[1]
        assert 'trust={"root"}' in refused[2]
        assert (trusted, dumped, own) == ("[1, 2, 3]", "'anns'", "[4, 5]")
        with pytest.raises(Forbidden, match=f"dumped by {ANN}"):
            client.load("gs://data/anns")
        assert client.load("gs://data/anns", trust={ANN}) == [4, 5]


def localized(node: Node, wishes: list[dict[str, Any]], *options: str, **settings: Any) -> Any:
    return node.cli("localize", "-", *options, input=json.dumps(wishes), cwd=node.cluster.work, **settings)


def test_a_job_s_transfers_go_through_the_cache_and_the_second_job_costs_the_origin_nothing(cluster, fake):
    node = started(cluster, fake, "a")
    node.env["CACHED_GCS_TOKEN"] = ""
    for name, size in (("a", 3_000_000), ("b", 20_000), ("deep/c", 0)):
        fake.put("data", f"in/{name}", bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    source = cluster.tree("tree", {"one": b"1" * 1000, "d/two": b"2"})
    node.cli("create", "nr", source)
    wishes = [
        {"from": "gs://data/in/**", "to": "w/"},
        {"from": "nr", "to": "db"},
        {"from": "nr/one", "to": "single"},
    ]
    environment = {"STORAGE_EMULATOR_HOST": fake.url}
    first = localized(node, wishes, "--json", env=environment).json()["summary"]
    assert first["bytes_in"] == 3_020_000 + 1001 + 1000
    assert first["bytes_by_place"]["origin"] == 3_020_000
    assert first["bytes_by_place"]["here"] == 2001
    assert (cluster.work / "w/a").read_bytes() == fake.get("data", "in/a")
    assert (cluster.work / "w/deep/c").read_bytes() == b""
    assert (cluster.work / "db/d/two").read_bytes() == b"2"
    assert (cluster.work / "single").read_bytes() == b"1" * 1000
    read = fake.bytes_out
    again = localized(
        node, [*wishes, {"from": "db/", "to": "gs://data/out"}], "--json", env=environment
    ).json()["summary"]
    assert again["hit_rate"] == 1.0
    assert again["files_out"] == 2
    assert fake.bytes_out == read
    assert fake.get("data", "out/d/two") == b"2"
    failed = localized(
        node, [{"from": "gs://data/none", "to": "x"}, *wishes], "--json", check=False, env=environment
    )
    assert failed.returncode == 3
    assert "gs://data/none" in failed.error["message"]

"""Sets from and into Cloud Storage: a real daemon, the real client library, a fake service in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator

import pytest
from tests.daemons.cluster import Cluster, running
from tests.daemons.node import Node
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = pytest.mark.daemon

FILES = {"a": b"some bytes", "d/b": random.Random(1).randbytes(3_000_000), "d/e/c": b"", "f/g": b"x" * 20_000}


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        remote.bucket("closed")
        yield remote
        assert not remote.errors


def started(cluster: Cluster, fake: RemoteFake, name: str = "a", **settings: str) -> Node:
    facts = {
        "origin_buckets": "data=*,closed=nobody,absent=*",
        "origin_endpoint": fake.url,
        "store_capacity": "2GB",
    }
    return cluster.start(name, **{**facts, **settings})


def filled(fake: RemoteFake, prefix: str = "in") -> None:
    for path, data in FILES.items():
        fake.put("data", f"{prefix}/{path}", data)
    fake.put("data", f"{prefix}/empty/", b"")


def check(node: Node, name: str) -> None:
    with node.client() as client:
        assert client.verify(name).ok
        for path, data in FILES.items():
            with client.open(f"{name}/{path}") as opened:
                assert opened.read() == data


def test_objects_become_a_set_and_a_set_becomes_objects(cluster, fake):
    filled(fake)
    node = started(cluster, fake)
    made = node.cli("create", "nr", "--from", "gs://data/in", "--lease", "2d").json()
    assert (made["files"], made["bytes"], made["state"]) == (4, sum(map(len, FILES.values())), "COMMITTED")
    assert {item["path"] for item in node.cli("files", "nr").items() if item["kind"] == "dir"} >= {
        "empty",
        "d/e",
    }
    check(node, "nr")
    assert fake.bytes_out == made["bytes"]
    source = cluster.tree("tree", FILES)
    (source / "link").symlink_to("a")
    (source / "f/g").chmod(0o755)
    kept = node.cli("create", "kept", source, "--origin", "gs://data/out").json()
    assert (kept["state"], kept["origin"]) == ("COMMITTED", "gs://data/out")
    for path, data in FILES.items():
        assert fake.get("data", f"out/{path}") == data
    assert json.loads(fake.get("data", "out/.cached/set"))["content"] == kept["content"]
    assert node.cli("create", "kept", source, "--origin", "gs://data/out").json()["id"] == kept["id"]


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("gs://closed/x", "forbidden", "gs://closed"),
        ("gs://absent/x", "not_found", "gs://absent"),
        ("gs://data/nothing/", "not_found", "gs://data/nothing"),
        ("gs://data/denied/", "forbidden", "gs://data/denied/x"),
        ("gs://data/odd/", "bad_name", "gs://data/odd/../x"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_cause(shared_origin, source, code, words):
    node, _ = shared_origin
    refused = node.cli("create", "nr", "--from", source, check=False)
    assert refused.error["code"] == code
    assert words in refused.error["message"]
    assert node.cli("list").items() == []


@pytest.fixture(scope="module")
def shared_origin() -> Iterator[tuple[Node, RemoteFake]]:
    with fake_process() as remote, running() as cluster:
        remote.bucket("data")
        remote.bucket("closed")
        remote.put("data", "denied/x", b"1")
        remote.put("data", "odd/../x", b"1")
        remote.allow("data", "*")
        remote.deny("data", "*", "denied/x")
        yield started(cluster, remote), remote


def test_an_upload_goes_on_after_a_crash_of_the_daemon(cluster, fake):
    node = started(cluster, fake)
    fake.rate = 400_000
    source = cluster.tree("tree", FILES)
    creating = node.spawn("create", "kept", source, "--origin", "gs://data/out")
    with node.client() as client:
        cluster.wait_for(lambda: any(one.state == "UPLOADING" for one in client.list()), what="the upload")
    assert "out/.cached/set" not in fake.names("data")
    node.kill()
    assert creating.wait(60) != 0
    fake.rate = None
    node.restart()
    with node.client() as client:
        cluster.wait_for(lambda: client.show("kept").state == "COMMITTED", what="the end of the upload")
    for path, data in FILES.items():
        assert fake.get("data", f"out/{path}") == data
    assert "out/.cached/set" in fake.names("data")


def test_an_interrupt_while_objects_are_read_leaves_nothing(cluster, fake):
    filled(fake)
    node = started(cluster, fake)
    fake.rate = 100_000
    creating = node.spawn("create", "nr", "--from", "gs://data/in")
    cluster.wait_for(lambda: os.listdir(node.disk / "incoming"), what="the creation to begin")
    creating.send_signal(signal.SIGINT)
    _, said = creating.communicate(timeout=60)
    assert creating.returncode == 130, said
    assert "nothing was stored" in said
    cluster.wait_for(lambda: not os.listdir(node.disk / "incoming"), what="nothing to be left")
    assert node.cli("list").items() == []

"""A kill at every step between a node and Cloud Storage: nothing acknowledged is lost, the rest is gone or goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.daemons.walk import Walk
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = [pytest.mark.daemon, pytest.mark.crash]

GATHERING = ("gather.listed", "gather.read")
KEEPING = ("persist.stored", "persist.document", "persist.mapped", "persist.done")
REPLACING = (
    "ahead.begun",
    "persist.stored",
    "persist.document",
    "ahead.sent",
    "create.published",
    "create.committed",
)
RECREATING = ("recreate.described", "recreate.committed", "pool.claimed", "pool.read")


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        yield remote


@pytest.fixture
def walk(cluster, fake) -> Walk:
    return Walk(
        cluster, cluster.start("a", origin_buckets="data=*", origin_endpoint=fake.url, store_capacity="100MB")
    )


def files_of(source):
    return {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}


def killed_at(walk, point, *command):
    """Run a command on a node that dies at that point, and start it again; whether it was acknowledged."""
    node = walk.node
    node.restart(env={"CACHED_FAULT": f"{point}:kill"})
    result = node.cli(*command, check=False)
    assert node.wait_exit() == -9, f"{command} does not come by {point}: {result}"
    assert result.returncode in (0, 6), (point, result)
    node.restart()
    return result.returncode == 0


@pytest.mark.timeout(900)
def test_killed_while_it_reads_objects_a_node_keeps_nothing_of_them(walk, fake):
    for number, point in enumerate(GATHERING):
        source = walk.source("objects")
        for path, data in files_of(source).items():
            fake.put("data", f"in{number}/{path}", data)
        assert not killed_at(walk, point, "create", "subject", "--from", f"gs://data/in{number}")
        assert walk.show("subject") is None
        walk.settled()
        walk.node.cli("create", "subject", "--from", f"gs://data/in{number}")
        walk.intact("subject", source)
        walk.forget("subject")


@pytest.mark.timeout(900)
def test_killed_while_it_uploads_a_node_goes_on_and_the_origin_gets_all_of_it(walk, fake):
    for number, point in enumerate(KEEPING):
        source, base = walk.source("upload"), f"out{number}"
        assert not killed_at(walk, point, "create", "subject", source, "--origin", f"gs://data/{base}")
        walk.cluster.wait_for(
            lambda: walk.show("subject").state == "COMMITTED", what=f"the upload after a kill at {point}"
        )
        walk.intact("subject", source)
        found = json.loads(fake.get("data", f"{base}/.cached/set"))
        assert found["content"] == walk.show("subject").content
        for path, data in files_of(source).items():
            assert fake.get("data", f"{base}/{path}") == data
        walk.forget("subject")


@pytest.mark.timeout(900)
def test_killed_while_one_kept_set_takes_anothers_place_the_old_one_or_the_new_one_is_whole(walk, fake):
    for number, point in enumerate(REPLACING):
        old, new = walk.source("old"), walk.source("new")
        walk.node.cli("create", "subject", old, "--origin", f"gs://data/old{number}")
        before = walk.show("subject").id
        replace = ("create", "subject", new, "--replace", "--origin", f"gs://data/new{number}")
        assert not killed_at(walk, point, *replace)
        shown = walk.show("subject")
        moved = shown.id != before
        assert moved == (point == "create.committed")
        assert shown.state == "COMMITTED"
        walk.intact("subject", new if moved else old)
        if moved:
            assert json.loads(fake.get("data", f"new{number}/.cached/set"))["content"] == shown.content
        walk.node.cli(*replace)
        walk.intact("subject", new)
        for path, data in files_of(new).items():
            assert fake.get("data", f"new{number}/{path}") == data
        walk.forget("subject")


@pytest.mark.timeout(900)
def test_killed_while_it_makes_a_set_again_a_node_has_it_whole_or_not_at_all(walk, fake):
    for number, point in enumerate(RECREATING):
        source, base = walk.source("kept-there"), f"out{number}"
        walk.node.cli("create", "seed", source, "--origin", f"gs://data/{base}")
        walk.forget("seed")
        acknowledged = killed_at(walk, point, "create", "subject", "--from-set", f"gs://data/{base}")
        assert walk.show("subject") is not None or not acknowledged
        if walk.show("subject") is None:
            walk.settled()
            walk.node.cli("create", "subject", "--from-set", f"gs://data/{base}")
        with walk.node.client() as client:
            client.fetch("subject")
        walk.intact("subject", source)
        walk.forget("subject")


@pytest.mark.timeout(900)
def test_killed_while_it_gets_what_another_has_read_a_node_gets_the_rest_afterwards(cluster, fake):
    settings = {"origin_buckets": "data=*", "origin_endpoint": fake.url, "origin_readers": "1"}
    a, b = (cluster.start(name, **settings) for name in "ab")
    b.restart(env={"CACHED_FAULT": "pool.got:kill"})
    cluster.together()
    files = {f"{number}": bytes([number]) * 1_500_000 for number in range(6)}
    a.cli("create", "seed", cluster.tree("seed", files), "--origin", "gs://data/out", "--replicas", "0")
    a.cli("delete", "seed", "--everywhere")
    fake.rate = 2_000_000
    a.cli("create", "subject", "--from-set", "gs://data/out", "--replicas", "all")
    assert b.wait_exit() == -9
    fake.rate = None
    b.restart()
    cluster.wait_for(
        lambda: b.cli("verify", "subject", check=False).returncode == 0, what="b to have it whole"
    )

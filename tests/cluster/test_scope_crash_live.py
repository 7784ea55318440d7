"""A node killed at any moment of a put for a scope: ending the scope leaves nothing of it, anywhere."""

import contextlib
import os
import sqlite3

import pytest
from tests.cluster.kit import copies
from tests.gcs.remote import fake_process

pytestmark = [pytest.mark.daemon, pytest.mark.crash]

SMALL, LARGE = 100_000, 20_000_000


@pytest.fixture
def storage():
    with fake_process() as fake:
        fake.bucket("scratch")
        yield fake


def before_it_is_asked(storage):
    """Cloud Storage never gets to see the bytes."""
    return storage.faults.add("stall", {"kind": "upload"}), SMALL


def in_the_middle_of_a_session(storage):
    """A session that has taken a part, and does not go on."""
    storage.faults.add("cut", {"kind": "resumable", "method": "PUT"}, at=1_000_000)
    return storage.faults.add("stall", {"kind": "resumable", "method": "PUT"}), LARGE


def when_it_has_it_and_the_answer_is_lost(storage):
    storage.faults.add("lost_reply", {"kind": "upload"})
    return storage.faults.add("stall", {"kind": "stat"}), SMALL


def when_a_session_is_over_and_the_answer_is_lost(storage):
    storage.faults.add("lost_reply", {"kind": "resumable", "method": "PUT"}, times=2)
    return storage.faults.add("stall", {"kind": "resumable", "method": "PUT"}), LARGE


def scoped(node):
    with contextlib.closing(sqlite3.connect(f"file:{node.state}/catalog.db?mode=ro", uri=True)) as catalog:
        return catalog.execute("select * from scoped").fetchall()


@pytest.mark.parametrize(
    "moment",
    [
        before_it_is_asked,
        in_the_middle_of_a_session,
        when_it_has_it_and_the_answer_is_lost,
        when_a_session_is_over_and_the_answer_is_lost,
    ],
)
def test_what_a_killed_node_was_writing_for_a_scope_goes_when_the_scope_ends(cluster, storage, moment):
    a, b = [cluster.start(name, origin_endpoint=storage.url) for name in "ab"]
    cluster.together()
    file = cluster.tree("out", {"done": b"done", "part": b""}) / "part"
    a.cli("put", file.with_name("done"), "gs://scratch/done", "--scope", "run7")
    assert b.cli("cat", "gs://scratch/done", env={"CACHED_SCOPE": "run7"}).stdout == "done"
    fault, size = moment(storage)
    file.write_bytes(os.urandom(size))
    a.spawn("put", file, "gs://scratch/part", "--scope", "run7")
    cluster.wait_for(lambda: fault.done, what="the put to be where it is killed")
    a.kill()
    storage.faults.clear()
    storage.put("scratch", "other", b"of somebody else")
    a.restart()
    cluster.together()
    ended = b.cli("scope", "end", "run7", "--delete-origin").json()
    assert [item["reason"] for item in ended["items"] if item["reason"]] == []
    assert storage.names("scratch") == ["other"]
    assert scoped(a) == scoped(b) == []
    cluster.wait_for(lambda: copies(a, b) == [], what="the scope's copies to be gone")

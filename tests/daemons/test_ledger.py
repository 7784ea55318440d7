"""The ledger of a real daemon: killed at any moment, it has what was written down and charges what lay on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = pytest.mark.daemon

SIZE = 500_000


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        yield remote
        assert not remote.errors


def taken(node, *options):
    """The ledger: (kind, tier, scope) -> figures."""
    found = node.cli("usage", *options).json()
    return {(line["kind"], line["tier"], line["scope"]): line for line in found["ledger"]}


def saved(ledger):
    """Bytes and operations saved, by all tiers together."""
    lines = ledger.values()
    return sum(line["saved_bytes"] for line in lines), sum(line["saved_operations"] for line in lines)


def test_a_killed_daemon_keeps_the_ledger_and_charges_what_lay_on_disk(cluster, fake):
    fake.put("data", "o", b"x" * SIZE)
    node = cluster.start(
        "a", store_capacity="2GB", objects_disk="64MB", origin_endpoint=fake.url, origin_buckets="data=*"
    )
    began = time.monotonic()
    node.cli("create", "nr", cluster.tree("tree", {"f": "y" * 1000}), "--scope", "run-1")
    for _ in range(3):
        assert len(node.cli("cat", "gs://data/o", env={"CACHED_SCOPE": "run-1"}).stdout) == SIZE
    taken(node)  # a look, from which on what lies here counts
    before = taken(node)
    misses = before["object", "origin", "run-1"]
    assert saved(before) == (2 * SIZE, 2)
    assert (misses["spent_bytes"], misses["spent_operations"]) == (SIZE, 4)
    assert fake.bytes_out == SIZE

    node.kill()
    node.restart()
    after = taken(node, "--scope", "run-1")
    lasted = time.monotonic() - began
    for key, line in before.items():
        for name in ("saved_bytes", "saved_operations", "spent_bytes", "spent_operations"):
            assert after[key][name] == line[name]
    held = ("set", "disk", "run-1")
    assert before[held]["byte_seconds"] < after[held]["byte_seconds"] <= 1000 * lasted

    node.cli("cat", "gs://data/o", env={"CACHED_SCOPE": "run-1"})
    node.stop()
    node.restart()
    again = taken(node, "--since", "1d")
    moved = sum(line["saved_bytes"] + line["spent_bytes"] for line in again.values())
    assert moved == 4 * SIZE, "an orderly stop writes down what was read last"


def test_the_figures_of_objects_are_in_status_and_metrics(cluster, fake):
    fake.put("data", "o", b"x" * SIZE)
    node = cluster.start(
        "a", store_capacity="2GB", objects_disk="64MB", origin_endpoint=fake.url, origin_buckets="data=*"
    )
    for _ in range(2):
        node.cli("cat", "gs://data/o")
    found = node.status()["objects"]
    assert found["hits"]["disk"] == {"reads": 1, "bytes": SIZE}
    assert (found["byte_hit_rate"], found["working_set_fits"], found["copies"]) == (0.5, 1.0, 1)
    text = node.http("GET", "/v1/metrics").body.decode()
    assert 'cached_object_hits_total{tier="disk"} 1.0' in text
    assert f"cached_object_miss_bytes_total {float(SIZE)}" in text
    assert node.http("GET", "/v1/usage?since=never").status == 400

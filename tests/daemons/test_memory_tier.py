"""The memory tier: a copy on tmpfs beside the durable one, counted, never mapped sparse, and free to go."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.daemon


def test_a_set_in_memory_is_read_from_memory_and_kept_on_disk(node):
    source = node.cluster.tree("fast", {"x": os.urandom(300_000)})
    before = node.status()["tiers"]["memory"]["committed_bytes"]
    made = node.cli("create", "fast", source, "--tier", "memory").json()
    assert made["tier"] == "memory"
    assert node.status()["tiers"]["memory"]["committed_bytes"] >= before + 300_000
    kept = node.memory / "contents" / made["content"] / "data" / "x"
    assert kept.stat().st_blocks * 512 >= 300_000
    assert (node.disk / "contents" / made["content"] / "data" / "x").read_bytes() == kept.read_bytes()
    with node.client() as client, client.open("fast/x") as opened:
        assert os.fstat(opened.fileno()).st_dev == kept.stat().st_dev
    node.cli("update", "fast", "--tier", "disk")
    node.cluster.wait_for(lambda: not kept.exists(), what="the memory copy to go")
    with node.client() as client, client.open("fast/x") as opened:
        assert opened.read() == (source / "x").read_bytes()
    node.cli("update", "fast", "--tier", "memory")
    with node.client() as client, client.open("fast/x") as opened:
        assert os.fstat(opened.fileno()).st_dev == kept.stat().st_dev
    node.cli("delete", "fast")
    node.cluster.wait_for(
        lambda: node.status()["tiers"]["memory"]["committed_bytes"] == before, what="memory to return"
    )


def test_a_job_that_reads_from_memory_reads_on_when_the_set_leaves_memory(node):
    source = node.cluster.tree("leaving", {"x": "first", "y": "second"})
    node.cli("create", "leaving", source, "--tier", "memory")
    job = node.spawn(
        "exec", "leaving", "--", "sh", "-ec", "cat leaving/x; read go; cat leaving/y; read go; cat leaving/x"
    )
    assert job.stdout.read(5) == "first"
    node.cli("update", "leaving", "--tier", "disk")
    job.stdin.write("go\n")
    job.stdin.flush()
    assert job.stdout.read(6) == "second"
    node.cli("delete", "leaving", "--everywhere")
    assert job.communicate("go\n", timeout=120)[0] == "first"
    node.cluster.wait_for(lambda: list((node.memory / "contents").iterdir()) == [], what="memory to return")

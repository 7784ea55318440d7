"""Bandwidth limits of real daemons: one budget for all methods, changed while running, and jobs first."""

from __future__ import annotations

import time

import pytest
from tests.cluster.kit import has, noise, present, start

pytestmark = pytest.mark.daemon

MB = 1_000_000


def test_direct_streams_and_a_swarm_share_one_upload_limit(cluster):
    a = cluster.start("a", replication_upload_limit="2MB")
    others = start(cluster, "bc")
    cluster.together()
    for number, method in enumerate(("direct", "bittorrent")):
        files = cluster.tree(method, {"f": noise(3 * MB, number)})
        a.cli("create", method, files, "--methods", method, "--replicas", "0", "--wait")
    begun = time.monotonic()
    for node, name in zip(others, ("direct", "bittorrent"), strict=True):
        a.cli("replicate", name, "--to", node.name)
    for node, name in zip(others, ("direct", "bittorrent"), strict=True):
        cluster.wait_for(lambda node=node, name=name: has(node, name))
    # 6 MB at 2 MB/s, of which a little may be caught up with; each method by itself would need 1.5 s.
    assert time.monotonic() - begun > 2.4


def test_limits_are_changed_while_transfers_run_and_until_the_next_start(cluster):
    a = cluster.start("a", replication_upload_limit="50kB")
    b = cluster.start("b", replication_download_limit="1GB")
    cluster.together()
    for number, method in enumerate(("direct", "bittorrent")):
        files = cluster.tree(method, {"f": noise(8 * MB, number)})
        a.cli("create", method, files, "--methods", method, "--replicas", "all")
        cluster.wait_for(lambda method=method: present(b, method) > 0)
    assert a.cli("limits", "--json").json() == {
        "upload_bytes_per_second": 50_000,
        "download_bytes_per_second": None,
        "configured": True,
    }
    assert not has(b, "direct")
    assert not has(b, "bittorrent")
    assert a.cli("limits", "--upload", "none", "--download", "3GB/s").json()["configured"] is False
    for method in ("direct", "bittorrent"):
        cluster.wait_for(lambda method=method: has(b, method))
    limits = a.cli("status", "--json").json()["limits"]
    assert limits == {
        "upload_bytes_per_second": None,
        "download_bytes_per_second": 3_000_000_000,
        "configured": False,
    }
    a.restart()
    assert a.cli("limits", "--json").json()["upload_bytes_per_second"] == 50_000


def test_what_a_job_waits_for_goes_before_what_comes_by_itself(cluster):
    a = cluster.start("a", replication_upload_limit="2MB")
    b = cluster.start("b")
    cluster.together()
    urgent = cluster.tree("urgent", {"f": noise(8 * MB)})
    a.cli("create", "urgent", urgent, "--methods", "direct", "--replicas", "0")
    other = cluster.tree("other", {"f": noise(60 * MB, 1)})
    a.cli("create", "other", other, "--methods", "direct", "--replicas", "all")
    cluster.wait_for(lambda: b.show("urgent") and present(b, "other") > 0)
    before = present(b, "other")
    with b.client() as client:
        client.fetch("urgent")
    # Side by side both would have got the same; nine turns of ten are the job's.
    assert present(b, "other") - before < 6 * MB
    a.cli("limits", "--upload", "none")
    cluster.wait_for(lambda: has(b, "other"))

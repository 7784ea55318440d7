"""Rot on the disks of real daemons: found, kept from readers, and repaired."""

from __future__ import annotations

import pytest
from tests.daemons.cluster import Cluster
from tests.daemons.node import Node

pytestmark = pytest.mark.daemon

FILES = {"a": b"alpha" * 5000, "b": b"beta" * 5000}


def rot(node: Node, name: str, path: str) -> None:
    """Flip a byte of a file behind the daemon's back."""
    place = node.disk / "contents" / node.show(name)["content"] / "data" / path
    data = bytearray(place.read_bytes())
    data[100] ^= 1
    place.chmod(0o644)
    place.write_bytes(data)
    place.chmod(0o444)


def test_the_same_files_created_again_repair_what_has_rotted(cluster: Cluster):
    a = cluster.start("a")
    source = cluster.tree("source", FILES)
    a.cli("create", "v1", source)
    rot(a, "v1", "b")
    a.cli("create", "v3", source)
    assert a.cli("verify", "v3").returncode == 0
    assert a.cli("cat", "v1/b", text=False).stdout == FILES["b"]


def test_damage_is_withheld_over_restarts_and_repaired_once_a_holder_is_there(cluster: Cluster):
    a, b = cluster.start("a"), cluster.start("b")
    cluster.together()
    a.cli("create", "nr", cluster.tree("source", FILES), "--replicas", "1", "--wait")
    a.stop()
    rot(b, "nr", "b")
    assert b.cli("verify", "nr", check=False).returncode == 7
    for _ in range(2):
        refused = b.cli("cat", "nr/b", check=False, text=False)
        assert (refused.returncode, refused.stdout) == (7, b"")
        assert b"cached verify nr --repair" in refused.stderr
        assert b.http("GET", "/v1/sets/nr/content/b").status == 500
        assert b.cli("cat", "nr/a", text=False).stdout == FILES["a"]
        assert any("damaged: b" in words for words in b.status()["health"])
        assert any("damaged: b" in replica["reason"] for replica in b.show("nr")["replicas"])
        b.kill()
        b.restart()
    a.restart()
    cluster.wait_for(lambda: not b.status()["health"], what="the repair of nr on b")
    assert b.cli("cat", "nr/b", text=False).stdout == FILES["b"]
    assert b.cli("verify", "nr").returncode == 0

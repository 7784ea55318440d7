"""Two versions of a data set on real nodes: only what is new travels, and what they have in common lies once."""

from __future__ import annotations

import os
import shutil

import pytest
from cached.storage.disk import Store
from tests.cluster.kit import holders, start
from tests.node.sharing_kit import lies_in

pytestmark = pytest.mark.daemon

SIZE, FILES, NEW = 200_000, 30, 3


def versions(cluster):
    """Two directories; the second has most files of the first, under other names, and some of its own."""
    first = cluster.tree("v1", {f"{number:02d}": os.urandom(SIZE) for number in range(FILES)})
    second = cluster.root / "v2"
    second.mkdir()
    for number in range(FILES):
        if number < FILES - NEW:
            shutil.copyfile(first / f"{number:02d}", second / f"{number:02d}.same")
        else:
            (second / f"{number:02d}").write_bytes(os.urandom(SIZE))
    return first, second


def received(node, content):
    return next(one["bytes_received"] for one in node.status()["traffic"] if one["content"] == content)


@pytest.mark.parametrize("method", ["direct", "bittorrent"])
def test_a_new_version_moves_and_takes_what_is_new_and_outlives_the_old_one(cluster, method):
    a, b = start(cluster, "ab")
    first, second = versions(cluster)
    a.cli("create", "v1", first, "--replicas", "1", "--wait", timeout=120)
    made = a.cli("create", "v2", second, "--replicas", "0", "--methods", method, timeout=120).json()
    a.cli("replicate", "v2", "--to", "b", "--wait", timeout=120)
    assert holders(a, "v2") == {"a", "b"}
    assert received(b, made["content"]) == NEW * SIZE
    for node in (a, b):
        assert node.status()["tiers"]["disk"]["committed_bytes"] == lies_in(Store(node.disk))
        assert lies_in(Store(node.disk)) < (FILES + NEW) * SIZE * 1.2
    a.cli("delete", "v1", "--everywhere")
    for node in (a, b):
        cluster.wait_for(lambda node=node: len(os.listdir(node.disk / "contents")) == 1, what="v1 to go")
        cluster.wait_for(
            lambda node=node: node.status()["tiers"]["disk"]["committed_bytes"] == lies_in(Store(node.disk)),
            what="what is charged to be what lies there",
        )
        node.restart()
    cluster.together()
    for node in (a, b):
        assert node.cli("verify", "v2", timeout=120).json()["ok"]
        with node.client() as client:
            for path in second.iterdir():
                with client.open(f"v2/{path.name}") as file:
                    assert file.read() == path.read_bytes()

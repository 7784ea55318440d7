from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from cached.peers.authority import init_cluster
from tests.peers.directory_kit import Cluster


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    init_cluster(path)
    return path


@pytest.fixture
def play(tmp_path):
    def run(scene):
        async def whole():
            cluster = Cluster(tmp_path)
            try:
                await asyncio.wait_for(scene(cluster), 240)
            finally:
                for node in list(cluster.nodes):
                    with contextlib.suppress(Exception):
                        await node.stop(orderly=False)

        asyncio.run(whole())

    return run

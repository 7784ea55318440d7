from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.objects.redis_kit import CACHE, Cluster, Server


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="cached-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(short: Path) -> Iterator[Server]:
    """A Redis server as a cache needs it."""
    made = Server(short / "r", *CACHE)
    yield made
    made.kill()


@pytest.fixture
def cluster(short: Path) -> Iterator[Cluster]:
    """A Redis Cluster of three masters."""
    made = Cluster(short)
    yield made
    made.kill()

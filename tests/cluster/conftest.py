"""Clusters of real daemons: the fixture of `tests/daemons`, and what these tests say again and again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.daemons.cluster import Cluster
from tests.daemons.conftest import cluster
from tests.objects.redis_kit import CACHE, Server

__all__ = ["cluster"]


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Server]:
    """A Redis for objects, which runs."""
    made = Server(cluster.root / "redis", *CACHE)
    yield made
    made.kill()

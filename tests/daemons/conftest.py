"""The fixture `cluster`, for tests here and elsewhere (`from tests.daemons.conftest import cluster`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.daemons.cluster import Cluster, running
from tests.daemons.node import Node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster without nodes; ended, with whatever the test left running, after the test."""
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """A cluster for all tests of a module that do no lasting harm to it."""
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def node(shared: Cluster) -> Node:
    """The one node of the module's shared cluster; tests use set names of their own."""
    return shared.start("a", store_capacity="2GB")


@pytest.fixture
def untouched(node: Node) -> Iterator[None]:
    """Assert that the test leaves nothing behind on the shared node."""
    before = standing(node)
    yield
    node.cluster.wait_for(
        lambda: standing(node) == before, what=f"the node to be as before: {before}, now {standing(node)}"
    )


def standing(node: Node) -> dict[str, object]:
    """Return everything that a refused or cancelled operation must leave as it was."""
    return {
        "tiers": {
            name: {key: tier[key] for key in tier if key != "free_bytes"}
            for name, tier in node.status()["tiers"].items()
        },
        "incoming": [
            path.name for root in (node.disk, node.memory) for path in (root / "incoming").iterdir()
        ],
        "trash": [path.name for root in (node.disk, node.memory) for path in (root / "trash").iterdir()],
        "contents": sorted(
            path.name for root in (node.disk, node.memory) for path in (root / "contents").iterdir()
        ),
        "sets": sorted(item["id"] for item in node.http("GET", "/v1/sets").json()["items"]),
    }

"""The fixture `cluster`, for tests here and elsewhere (`from tests.daemons.conftest import cluster`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.daemons.cluster import Cluster, running


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster without nodes; ended, with whatever the test left running, after the test."""
    with running() as made:
        yield made

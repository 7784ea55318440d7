"""Fixtures of the origin's tests."""

from __future__ import annotations

import pytest
from cached.origin.gcs import Gcs
from tests.gcs.fixtures import gcs
from tests.origin.worlds import AtFake, InMemory, World

__all__ = ["gcs"]


@pytest.fixture(params=["memory", "gcs"])
def world(request: pytest.FixtureRequest) -> World:
    """An origin with an open bucket `b`."""
    if request.param == "memory":
        made: World = InMemory()
        made.bucket("b")
        return made
    return AtFake(request.getfixturevalue("gcs"), Gcs(threads=4, patience=60, first_wait=0.01))

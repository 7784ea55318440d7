"""A node starts, says so, stops in order, and refuses what would hurt."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.daemon


def test_a_node_starts_and_stops_in_order(cluster):
    node = cluster.start("a")
    assert node.cli("list").json() == {"items": []}
    node.stop()
    node.restart()

"""States change along the tables' edges only."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from cached.errors import Busy
from cached.leases import lifecycle


@pytest.mark.parametrize(
    ("edges", "states"),
    [(lifecycle.CONTENT, lifecycle.ContentState), (lifecycle.REPLICA, lifecycle.ReplicaState)],
)
def test_each_table_knows_every_state_and_refuses_the_edges_it_does_not_have(edges, states):
    known = {None, *get_args(states)}
    assert set(edges) == known
    for old, new in itertools.product(known, known):
        if old == new or new in edges[old]:
            lifecycle.check(edges, old, new, "it")
        else:
            with pytest.raises(Busy):
                lifecycle.check(edges, old, new, "it")


def test_what_goes_only_ends():
    assert lifecycle.CONTENT["GOING"] == lifecycle.REPLICA["GOING"] == {None}

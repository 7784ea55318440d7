"""What the tables of distribution are held against."""

from __future__ import annotations

import pytest
from bench.bound import GOODPUT, alone, bound
from bench.swarm.plan import MATRIX
from hypothesis import given
from hypothesis import strategies as st

_RATES = st.floats(1, 1000)


@given(st.integers(1, 1 << 32), _RATES, st.lists(_RATES, min_size=1, max_size=20))
def test_nothing_is_faster_than_the_source_the_slowest_receiver_and_all_of_them_together(size, source, rates):
    seconds = bound(size, source, rates)
    carried = seconds * 1e6 / 8 * GOODPUT
    assert source * carried >= size * 0.999
    assert min(rates) * carried >= size * 0.999
    assert (source + sum(rates)) * carried >= len(rates) * size * 0.999


def test_a_quick_source_is_bound_by_the_receivers_and_a_slow_one_by_itself():
    megabyte = 1_000_000
    assert bound(megabyte, 80, [20] * 5) == pytest.approx(8 / 20 / GOODPUT)
    assert bound(megabyte, 10, [20] * 5) == pytest.approx(8 / 10 / GOODPUT)


def test_who_comes_late_gets_what_its_own_line_carries_when_there_are_others():
    assert alone(1_000_000, 5, 20, others=0) == pytest.approx(8 / 5 / GOODPUT)
    assert alone(1_000_000, 5, 20, others=3) == pytest.approx(8 / 20 / GOODPUT)


@pytest.mark.parametrize("row", MATRIX.values(), ids=list(MATRIX))
def test_every_row_of_the_matrix_has_a_target_and_is_bounded_in_time(row):
    assert row.targets["times bound"] <= 1.25
    assert row.setting.bound < 200

from __future__ import annotations

from cached.replication.throttle import share
from hypothesis import given
from hypothesis import strategies as st

rates = st.integers(min_value=1, max_value=10**12)
taken = st.floats(min_value=0, max_value=1e13)


@given(rates, taken, st.booleans())
def test_the_swarm_gets_at_least_half_and_never_more_than_all(rate, others, waiting):
    given_now = share(rate, others, waiting=waiting)
    assert given_now is not None
    assert max(1, rate // 2) <= given_now <= rate


@given(rates, taken)
def test_who_waits_for_a_turn_leaves_the_swarm_its_half(rate, others):
    assert share(rate, others, waiting=True) == max(1, rate // 2)


@given(rates)
def test_alone_the_swarm_takes_everything(rate):
    assert share(rate, 0.0, waiting=False) == rate


@given(taken, st.booleans())
def test_without_a_limit_there_is_none_to_share(others, waiting):
    assert share(None, others, waiting=waiting) is None

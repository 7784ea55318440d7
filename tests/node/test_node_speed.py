from __future__ import annotations

from cached.node.speed import SPAN, Speed, seconds_left
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(1, 1e9), st.lists(st.floats(0.01, 3), min_size=3, max_size=50))
def test_a_steady_rate_is_seen_however_often_one_looks(rate, steps):
    speed, now = Speed(), 0.0
    speed.look(now, 0)
    for step in steps:
        now += step
        seen = speed.look(now, round(rate * now))
        assert abs(seen - rate) <= 1 / min(step, SPAN) + 0.01 * rate


def test_what_stood_still_for_a_while_has_no_rate_and_no_end():
    speed = Speed()
    speed.look(0.0, 0)
    speed.look(1.0, 1000)
    speed.look(2.0, 1000)
    assert speed.look(3.0, 1000) == 0.0
    assert seconds_left(1000, 2000, 0.0) is None
    assert seconds_left(1000, 2000, 500.0) == 2.0


def test_a_transfer_that_goes_on_after_a_restart_does_not_count_what_was_there():
    speed = Speed()
    assert speed.look(5.0, 10**9) == 0.0
    assert speed.look(6.0, 10**9 + 100) == 100.0

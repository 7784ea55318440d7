from __future__ import annotations

from cached.speed import SPAN, Speed, seconds_left
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(1, 1e9), st.lists(st.floats(0.01, 3), min_size=3, max_size=50))
def test_a_steady_rate_is_seen_however_often_one_looks_once_it_lasted_a_second(rate, steps):
    speed, now, since = Speed(), 0.0, None
    speed.look(now, 0)
    for step in steps:
        now += step
        received = round(rate * now)
        seen = speed.look(now, received)
        since = now if since is None and received else since
        if since is None or now - since < SPAN:
            assert seen == 0.0
        else:
            assert abs(seen - rate) <= 1 / SPAN + 0.01 * rate


def test_the_time_before_the_first_bytes_is_no_part_of_a_rate():
    speed = Speed()
    seen = [speed.look(now, received) for now, received in ((0, 0), (30, 0), (31, 5000), (31.5, 5500))]
    assert seen == [0.0] * 4
    assert speed.look(32, 6000) == 1000.0


def test_what_stood_still_for_a_while_has_no_rate_and_no_end():
    speed = Speed()
    for now in range(4):
        speed.look(float(now), 1000 * min(now, 2))
    speed.look(4.0, 2000)
    assert speed.look(5.0, 2000) == 0.0
    assert seconds_left(1000, 2000, 0.0) is None
    assert seconds_left(1000, 2000, 500.0) == 2.0


def test_a_transfer_that_goes_on_after_a_restart_does_not_count_what_was_there():
    speed = Speed()
    assert speed.look(5.0, 10**9) == 0.0
    assert speed.look(6.0, 10**9 + 100) == 100.0

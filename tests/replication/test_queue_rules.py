from __future__ import annotations

import pytest
from cached.errors import UsageError
from cached.replication.membership import receivers_of
from cached.replication.queues import Queues, distance, member_queue, source_queue, window
from hypothesis import given
from hypothesis import strategies as st


@given(st.floats(0, 1e3), st.integers(1, 10_000))
def test_queues_stay_within_their_bounds_and_are_shorter_the_more_there_are(round_trip, receivers):
    assert 4 <= member_queue(round_trip, receivers) <= 128
    assert 2 <= source_queue(round_trip, receivers) <= 128
    assert member_queue(round_trip, receivers + 1) <= member_queue(round_trip, receivers)
    assert source_queue(round_trip, receivers + 1) <= source_queue(round_trip, receivers)


def test_the_source_keeps_queues_short_unless_it_is_far_away_or_there_is_one_receiver():
    assert [source_queue(0.0005, receivers) for receivers in (2, 3, 5, 10)] == [8, 5, 4, 4]
    assert source_queue(0.0005, 32) == 2
    assert source_queue(0.05, 5) == 42
    assert source_queue(30.0, 5) == 128
    assert source_queue(0.0, 1) == 128


def test_what_waits_at_a_member_is_shared_by_its_neighbours_and_grows_with_the_distance():
    assert [member_queue(0.0, receivers) for receivers in (1, 2, 3, 5, 10, 16, 100)] == [32, 8, 8, 4, 4, 4, 4]
    assert member_queue(0.05, 5) == 4 + 38


@given(st.lists(st.floats(0.0001, 0.002), min_size=2), st.floats(0.02, 10.0))
def test_one_member_on_a_busy_line_makes_nobody_seem_far_away(near, busy):
    assert distance([*near, busy]) <= max(near)


def test_members_of_whom_nothing_is_known_do_not_count_for_the_distance():
    assert distance([]) == distance([0.0, 0.0]) == 0.0
    assert distance([0.0, 0.0, 0.0, 0.08]) == 0.08


@given(st.integers(4, 128), st.integers(14, 27), st.floats(0, 1e9))
def test_the_window_covers_the_queue(queue, exponent, rate):
    pieces = window(queue, 1 << exponent, rate)
    assert pieces >= 4
    assert pieces << exponent >= 2 * queue * 16384


def test_the_shortest_queue_that_a_content_wants_is_shown_until_nobody_has_joined_for_a_while():
    queues = Queues()
    assert queues.wish("a", 32, now=0.0) == 32
    assert queues.wish("b", 4, now=1.0) == 4
    assert queues.wish("a", 16, now=30.0) == 4
    assert queues.wish("a", 16, now=61.0) == 16
    assert queues.wish("b", 4, now=62.0) == 4
    queues.drop(["b"])
    assert queues.wish("a", 8, now=63.0) == 8


@pytest.mark.parametrize("value", ["5", None, 2.5])
def test_a_number_of_receivers_that_is_none_is_refused(value):
    with pytest.raises(UsageError):
        receivers_of({"receivers": value})
    assert receivers_of({}) == receivers_of({"receivers": -3}) == 1

"""When contents are verified again, how fast, and when repairs are tried again."""

from __future__ import annotations

import pytest
from cached.leases import upkeep
from cached.leases.upkeep import INTERVAL, Verified

NOW = 1_700_000_000.0


def content(name, age, size=1):
    return Verified(content=name, tier="disk", bytes=size, wall=NOW - age)


def test_nothing_is_read_again_within_the_interval_and_everything_after_it():
    assert upkeep.next_due([], NOW) is None
    assert upkeep.next_due([content("a", 0), content("b", INTERVAL - 1)], NOW) is None
    assert upkeep.next_due([content("a", INTERVAL)], NOW).content == "a"


def test_the_oldest_verification_comes_first():
    here = [content("a", INTERVAL + 1), content("b", INTERVAL + 9), content("c", 5)]
    assert upkeep.next_due(here, NOW).content == "b"


def test_a_verification_in_the_future_says_nothing():
    here = [content("a", 2 * INTERVAL), content("b", -1)]
    assert upkeep.next_due(here, NOW).content == "b"


@pytest.mark.parametrize("total", [0, 1 << 30, 1 << 40, 1 << 50])
def test_the_pace_is_gentle_and_still_gets_through_everything_in_time(total):
    assert upkeep.rate(total) >= upkeep.RATE
    assert total / upkeep.rate(total) <= INTERVAL


def test_a_repair_is_tried_at_once_then_less_and_less_often():
    waits = [upkeep.retry_after(attempts) for attempts in range(100)]
    assert waits[:4] == [0.0, 5.0, 10.0, 20.0]
    assert waits == sorted(waits)
    assert max(waits) == 600.0

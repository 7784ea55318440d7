"""Deadlines: boottime within a boot, the wall clock across reboots, and never early."""

from __future__ import annotations

import pytest
from cached.leases.deadline import (
    HELD,
    PLAUSIBLE_GAP,
    Moment,
    advance,
    after,
    age,
    at,
    before,
    carry,
    elapsed,
    later,
    passed,
    seconds_left,
    trusted,
)
from hypothesis import given
from hypothesis import strategies as st

YEAR = 365 * 86_400.0
NOW = Moment(boot_id="a", boottime=1_000.0, wall=1_700_000_000.0)

seconds = st.floats(0, 60 * 86_400.0)
whole = st.integers(0, 60 * 86_400)
jumps = st.floats(-10 * YEAR, 10 * YEAR)


def later_in_boot(moment, passed_seconds, jump=0.0):
    return Moment(
        boot_id=moment.boot_id,
        boottime=moment.boottime + passed_seconds,
        wall=moment.wall + passed_seconds + jump,
    )


def rebooted(moment, off, *, up=0.0, wall_error=0.0, boot_id="b"):
    return Moment(boot_id=boot_id, boottime=up, wall=moment.wall + off + up + wall_error)


@given(length=seconds, waited=seconds, jump=jumps)
def test_within_a_boot_only_boottime_decides(length, waited, jump):
    deadline = after(NOW, length)
    now = later_in_boot(NOW, waited, jump)
    for high_water in (NOW, now, advance(NOW, now)):
        assert seconds_left(deadline, now, high_water) == pytest.approx(length - waited, abs=1e-3)


@given(length=seconds, off=st.floats(0, PLAUSIBLE_GAP - 86_400), up=st.floats(0, 86_400))
def test_after_a_reboot_the_wall_clock_counts_the_time_off(length, off, up):
    now = rebooted(NOW, off, up=up)
    assert trusted(now, NOW)
    assert seconds_left(after(NOW, length), now, NOW) == pytest.approx(length - off - up, abs=1e-3)


@given(
    length=seconds,
    off=seconds,
    error=st.one_of(st.floats(-10 * YEAR, -61 * 86_400), st.floats(PLAUSIBLE_GAP + 1, 10 * YEAR)),
)
def test_after_a_reboot_an_unbelievable_wall_clock_counts_only_what_is_proven(length, off, error):
    now = rebooted(NOW, off, up=30.0, wall_error=error)
    assert not trusted(now, NOW)
    assert elapsed(NOW, now) == 30.0
    assert seconds_left(after(NOW, length), now, NOW) == pytest.approx(length - 30.0)


@given(length=seconds, jump=jumps, off=st.floats(0, 86_400))
def test_a_jump_before_the_reboot_ends_nothing_early(length, jump, off):
    jumped = later_in_boot(NOW, 10.0, jump)
    high_water = advance(advance(NOW, jumped), later_in_boot(NOW, 20.0))
    true_now = rebooted(NOW, 20.0 + off)
    jumped_now = rebooted(NOW, 20.0 + off, wall_error=jump)
    for now in (true_now, jumped_now):
        assert seconds_left(after(NOW, length), now, high_water) >= length - 20.0 - off - 1e-3


@given(waits=st.lists(st.tuples(st.floats(0, 1e6), jumps), max_size=20))
def test_the_high_water_never_goes_back_and_keeps_up_with_boottime(waits):
    high_water = now = NOW
    for waited, jump in waits:
        now = later_in_boot(now, waited, jump)
        new = advance(high_water, now)
        assert new.wall >= high_water.wall + waited - 1e-3
        assert new.wall >= now.wall
        assert new.boottime >= high_water.boottime
        high_water = new


def test_a_boot_with_an_unbelievable_clock_casts_doubt_on_the_next_reboot_only():
    wrong = advance(NOW, rebooted(NOW, 100.0, wall_error=-YEAR, boot_id="b"))
    assert wrong.doubted
    right = rebooted(NOW, 3_600.0, boot_id="c")
    assert not trusted(right, wrong)
    assert seconds_left(after(wrong, 600.0), right, wrong) == 600.0
    assert not advance(wrong, right).doubted


@given(length=st.floats(-1e6, 1e6), off=seconds, up=seconds, error=jumps)
def test_carrying_over_changes_the_clock_and_not_what_is_left(length, off, up, error):
    deadline = after(NOW, length)
    now = rebooted(NOW, off, up=up, wall_error=error)
    carried = carry(deadline, now, NOW)
    assert carried.boot_id == now.boot_id
    assert seconds_left(carried, now, NOW) == pytest.approx(seconds_left(deadline, now, NOW), abs=1e-2)
    assert carry(carried, now, NOW) is carried


@given(left=whole, right=whole, waited=whole)
def test_the_later_of_two_deadlines_is_the_one_with_more_left(left, right, waited):
    now = later_in_boot(NOW, waited)
    one, two = after(NOW, left), after(NOW, right)
    assert later(one, two, now, NOW) is (two if right > left else one)
    assert later(one, one, now, NOW) is one


@given(past=seconds, waited=seconds, off=st.floats(0, PLAUSIBLE_GAP))
def test_an_age_counts_up_through_a_reboot(past, waited, off):
    base = before(NOW, past)
    assert age(base, NOW, NOW) == pytest.approx(past)
    there = later_in_boot(NOW, waited)
    assert age(base, there, NOW) == pytest.approx(past + waited)
    assert age(base, rebooted(there, off), there) == pytest.approx(past + waited + off, abs=1e-3)
    assert age(later_in_boot(NOW, 5.0), NOW, NOW) == 0.0


def test_a_deadline_has_passed_at_its_very_moment():
    assert passed(at(NOW), NOW, NOW)
    assert not passed(after(NOW, 0.001), NOW, NOW)


def test_a_deadline_of_a_forgotten_boot_ends_by_the_wall_clock_or_is_held():
    old = after(Moment(boot_id="old", boottime=5.0, wall=NOW.wall - 100.0), 150.0)
    assert seconds_left(old, rebooted(NOW, 10.0), NOW) == 40.0
    assert seconds_left(old, rebooted(NOW, 0.0, wall_error=-YEAR), NOW) == HELD

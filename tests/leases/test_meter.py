"""What users take adds up: nothing is lost at the borders of hours, nothing is charged twice, nothing is negative."""

from __future__ import annotations

import math

import pytest
from cached.leases.deadline import Moment
from cached.leases.meter import HOUR, MOST, SCOPES, Figures, Line, Meter, read, shares, split
from hypothesis import given
from hypothesis import strategies as st

DISK = Line("ada", "set", "disk", "")
MEMORY = Line("ada", "object", "memory", "run-1")
WALL = 1_700_000_000.0


def at(seconds, *, boot="one", step=0.0):
    return Moment(boot_id=boot, boottime=100.0 + seconds, wall=WALL + seconds + step)


def byte_seconds(charges, line=None):
    return math.fsum(charge.figures.byte_seconds for charge in charges if line in (None, charge.line))


@given(st.floats(0, 4e9), st.floats(0, MOST))
def test_time_is_split_at_the_borders_of_hours_and_none_is_lost(end, seconds):
    parts = list(split(end, seconds))
    assert math.isclose(math.fsum(part for _, part in parts), seconds, rel_tol=1e-9, abs_tol=1e-6)
    assert all(part > 0 for _, part in parts)
    hours = [hour for hour, _ in parts]
    assert hours == sorted(set(hours), reverse=True)
    for hour, part in parts:
        assert hour == 0 or part <= HOUR
        assert hour * HOUR <= max(0.0, end)


def test_an_interval_over_two_borders_counts_for_three_hours():
    assert list(split(2 * HOUR + 5.0, HOUR + 15.0)) == [(2, 5.0), (1, 3600.0), (0, 10.0)]
    assert list(split(2.0 * HOUR, 10.0)) == [(1, 10.0)]
    assert list(split(5.0, 20.0)) == [(0, 20.0)]
    assert list(split(5.0, 0.0)) == []


@given(
    st.lists(
        st.tuples(
            st.floats(0, 10_000),
            st.integers(0, 10**12),
            st.integers(0, 10**12),
            st.floats(-1e6, 1e6),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_what_is_held_adds_up_whatever_the_wall_clock_does_and_however_often_it_is_taken(steps):
    meter, now, charges = Meter(), 0.0, []
    meter.look({}, at(0.0))
    expected = before = 0.0
    for seconds, disk, memory, step, take in steps:
        now += seconds
        expected += before * seconds
        meter.look({DISK: disk, MEMORY: memory}, at(now, step=step))
        before = disk + memory
        if take:
            charges += meter.take(at(now, step=step))
    charges += meter.take(at(now))
    assert math.isclose(byte_seconds(charges), expected, rel_tol=1e-6, abs_tol=1e-3)
    assert all(charge.figures.byte_seconds >= 0 and charge.hour >= 0 for charge in charges)


@given(st.integers(0, 10**15), st.lists(st.sampled_from("abcd"), max_size=6))
def test_the_users_of_a_copy_share_it_in_equal_parts(size, users):
    parts = shares(size, users, "run-1")
    assert math.isclose(math.fsum(part for _, _, part in parts), size)
    assert len({part for _, _, part in parts}) == 1
    assert [owner for owner, _, _ in parts] == (list(dict.fromkeys(users)) or [""])


def test_the_scope_of_a_copy_is_told_to_nobody_else():
    assert shares(10, ["ada"], "secret") == [("ada", "secret", 10.0)]
    assert shares(10, ["ada", "bob"], "secret") == [("ada", "", 5.0), ("bob", "", 5.0)]
    assert shares(10, [], "secret") == [("", "secret", 10.0)]


def test_after_a_crash_the_time_since_is_charged_for_what_is_there():
    meter = Meter()
    mark = meter.look({DISK: 10, MEMORY: 7}, at(0.0))
    again = Meter()
    again.resume(mark, {DISK: 10, MEMORY: 7}, at(50.0))
    again.look({DISK: 10, MEMORY: 7}, at(50.0))
    charges = again.take(at(50.0))
    assert (byte_seconds(charges, DISK), byte_seconds(charges, MEMORY)) == (500.0, 350.0)


def test_after_a_reboot_memory_is_not_charged_and_disk_as_long_as_the_clock_can_be_believed():
    held = {DISK: 10, MEMORY: 7}
    mark = Meter().look(held, at(0.0))

    def charged(wall):
        now = Moment(boot_id="two", boottime=20.0, wall=wall)
        meter = Meter()
        meter.resume(mark, held, now)
        meter.look(held, now)
        charges = meter.take(now)
        assert byte_seconds(charges, MEMORY) == 0
        return byte_seconds(charges, DISK)

    assert charged(WALL + 5000) == 50_000
    assert charged(WALL - 5000) == 200, "only the time since the boot is proven"
    assert charged(WALL + 2 * MOST) == 200


def test_a_long_pause_is_charged_up_to_thirty_days_and_a_first_start_nothing():
    meter = Meter()
    mark = meter.look({DISK: 1}, at(0.0))
    meter.look({DISK: 1}, at(MOST * 3))
    assert byte_seconds(meter.take(at(MOST * 3))) == MOST
    meter.resume(None, {DISK: 1}, at(10.0))
    assert meter.look({DISK: 1}, at(10.0)) == at(10.0)
    assert meter.take(at(10.0)) == []
    assert mark == at(0.0)


def test_what_could_not_be_written_down_is_charged_later():
    meter = Meter()
    meter.look({DISK: 2}, at(0.0))
    meter.moved(DISK, Figures(spent_bytes=5, spent_operations=1))
    meter.look({}, at(10.0))
    charges = meter.take(at(10.0))
    meter.moved(DISK, Figures(spent_bytes=7, spent_operations=1))
    meter.give_back(charges)
    (charge,) = meter.take(at(10.0))
    assert charge.figures == Figures(byte_seconds=20.0, spent_bytes=12, spent_operations=2)
    assert meter.take(at(10.0)) == []


@pytest.mark.parametrize(
    ("parts", "operations", "charged"),
    [
        ({"memory": 9}, 0, {"memory": Figures(saved_bytes=9, saved_operations=1)}),
        ({"memory": 0}, 0, {"memory": Figures(saved_operations=1)}),
        (
            {"peer": 6, "origin": 4},
            1,
            {"peer": Figures(saved_bytes=6), "origin": Figures(spent_bytes=4, spent_operations=1)},
        ),
        ({"origin": 9}, 2, {"origin": Figures(spent_bytes=9, spent_operations=2)}),
        ({}, 1, {"origin": Figures(spent_operations=1)}),
        ({}, 0, {}),
    ],
)
def test_a_read_saves_what_cloud_storage_did_not_serve(parts, operations, charged):
    assert dict(read(parts, operations)) == charged


def test_who_makes_up_scopes_without_end_fills_no_disk_with_them_and_pays_all_the_same():
    meter, other = Meter(), Line("bob", "object", "memory", "run-1")
    for number in range(SCOPES + 500):
        meter.moved(MEMORY._replace(scope=f"made-up-{number}"), Figures(saved_bytes=1))
    meter.moved(other, Figures(saved_bytes=1))
    charges = meter.take(at(0))
    assert len(charges) == SCOPES + 2
    assert sum(one.figures.saved_bytes for one in charges if one.line.owner == "ada") == SCOPES + 500
    assert other in [one.line for one in charges]
    held = {MEMORY._replace(scope=f"copy-{number}"): 2.0 for number in range(SCOPES + 500)}
    meter.look(held, at(0))
    meter.look(held, at(1))
    charges = meter.take(at(1))
    assert len({one.line for one in charges}) <= SCOPES + 1
    assert math.isclose(byte_seconds(charges), 2.0 * (SCOPES + 500))


def test_an_hour_later_other_scopes_are_told_apart():
    meter = Meter()
    for hour in range(2):
        for number in range(SCOPES):
            meter.moved(MEMORY._replace(scope=f"{hour}-{number}"), Figures(saved_bytes=1))
        meter.take(at(hour * HOUR))
        meter.take(at((hour + 1) * HOUR))
    meter.moved(MEMORY._replace(scope="one-more"), Figures(saved_bytes=1))
    assert [one.line.scope for one in meter.take(at(3 * HOUR))] == ["one-more"]

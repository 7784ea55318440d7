"""Which clock decides when a promise ends: never early, whatever the clocks do.

* Within one boot `CLOCK_BOOTTIME` alone decides: it counts suspend and no step of the wall clock moves it.
* Across a reboot the time that was left at the *high water* (the last moment this node wrote down) shrinks by
  what has passed since: by the wall clock, if that is not earlier than the high water's and not more than
  `PLAUSIBLE_GAP` ahead of it; otherwise only by what is proven, the time since this boot. A promise may live
  too long; it never dies early.
* The high water's wall time never goes back, and within a boot it advances at least as fast as boottime: a
  step of the wall clock before the reboot makes the gap look shorter or implausible, never longer.
* A boot that began with a clock nobody could believe is *doubted*: promises made in it cannot be measured by
  a wall clock, so the reboot after it counts what is proven too, even if its own clock is right again.

Nothing here reads a clock: a `Moment` comes in as an argument. Durations travel between nodes, these never
do.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

#: Longest power-off, in seconds, that the wall clock is believed to show. Beyond it the clock may as well be
#: wrong, and what was left of each promise counts from the new boot instead.
PLAUSIBLE_GAP = 30 * 86_400.0

#: What is left, in seconds, of a promise of a forgotten boot whose end nobody can tell.
HELD = 3_600.0


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of this node's clocks."""

    #: The kernel's random id of the running boot.
    boot_id: str
    #: `CLOCK_BOOTTIME`, in seconds: since boot, suspend included.
    boottime: float
    #: Unix time in seconds; may step.
    wall: float
    #: Of a high water only: this boot began with a wall clock that could not be believed.
    doubted: bool = False


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """The moment at which a promise ends, by both clocks."""

    boot_id: str
    #: Decides while `boot_id` is the running boot.
    boottime: float
    #: For people, and for deadlines of a boot of which nothing else is known.
    wall: float


class Clock(Protocol):
    """Reads this node's clocks; only the composition root has a real one."""

    def now(self) -> Moment:
        """Return the present moment."""
        ...


def after(moment: Moment, seconds: float) -> Deadline:
    """Return the deadline `seconds` after `moment` (before it, when negative)."""
    return Deadline(boot_id=moment.boot_id, boottime=moment.boottime + seconds, wall=moment.wall + seconds)


def plausible(now: Moment, high_water: Moment) -> bool:
    """Tell whether the wall clock reads what it may after some time off."""
    return 0.0 <= now.wall - high_water.wall <= PLAUSIBLE_GAP


def trusted(now: Moment, high_water: Moment) -> bool:
    """Tell whether the wall clock may say how long the node was off; within one boot, always."""
    return now.boot_id == high_water.boot_id or (not high_water.doubted and plausible(now, high_water))


def elapsed(high_water: Moment, now: Moment) -> float:
    """Return the seconds that have passed since `high_water`: at least those proven, never too many."""
    if now.boot_id == high_water.boot_id:
        return max(0.0, now.boottime - high_water.boottime)
    proven = max(0.0, now.boottime)
    return max(proven, now.wall - high_water.wall) if trusted(now, high_water) else proven


def advance(high_water: Moment, now: Moment) -> Moment:
    """Return the high water after `now` was seen; its wall time never goes back."""
    if now.boot_id != high_water.boot_id:
        return Moment(
            boot_id=now.boot_id,
            boottime=now.boottime,
            wall=max(high_water.wall, now.wall),
            doubted=not plausible(now, high_water),
        )
    passed = max(0.0, now.boottime - high_water.boottime)
    return Moment(
        boot_id=now.boot_id,
        boottime=high_water.boottime + passed,
        wall=max(high_water.wall + passed, now.wall),
        doubted=high_water.doubted,
    )


def seconds_left(deadline: Deadline, now: Moment, high_water: Moment) -> float:
    """Return the seconds until `deadline`; zero or less once it has passed."""
    if deadline.boot_id == now.boot_id:
        return deadline.boottime - now.boottime
    if deadline.boot_id == high_water.boot_id:
        return deadline.boottime - high_water.boottime - elapsed(high_water, now)
    if trusted(now, high_water):
        return deadline.wall - max(now.wall, high_water.wall)
    return max(HELD, deadline.wall - high_water.wall)


def passed(deadline: Deadline, now: Moment, high_water: Moment) -> bool:
    """Tell whether the promise has ended."""
    return seconds_left(deadline, now, high_water) <= 0.0


def carry(deadline: Deadline, now: Moment, high_water: Moment) -> Deadline:
    """Return the same deadline counted by the running boot; done once with all of them after a reboot."""
    if deadline.boot_id == now.boot_id:
        return deadline
    return after(now, seconds_left(deadline, now, high_water))


def later(left: Deadline, right: Deadline, now: Moment, high_water: Moment) -> Deadline:
    """Return the deadline that ends later; the left one when they end together."""
    return right if seconds_left(right, now, high_water) > seconds_left(left, now, high_water) else left


def age(base: Moment, now: Moment, high_water: Moment) -> float:
    """Return the seconds since `base`, never negative and, across a reboot, never too many."""
    return max(0.0, -seconds_left(at(base), now, high_water))


def at(moment: Moment) -> Deadline:
    """Return the deadline that ends at `moment`."""
    return after(moment, 0.0)


def before(moment: Moment, seconds: float) -> Moment:
    """Return the moment `seconds` ago: the base from which an age of `seconds` counts up."""
    return Moment(boot_id=moment.boot_id, boottime=moment.boottime - seconds, wall=moment.wall - seconds)

"""The lease: one node's promise to keep its replica, and the only ways in which it may change.

    none -> granted -> expired -> (revived) granted
    granted, expired -> released

A lease is extended, never shortened; an expired one whose bytes are still here is revived by extending it.
Whether bytes may go is decided here and in `reclaim` alone: never while a lease is granted.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cached.leases.deadline import Deadline, Moment, after, later, seconds_left

LeaseState = Literal["granted", "expired"]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A promise as it stands."""

    deadline: Deadline
    #: What was promised when it was last granted or extended, in seconds from then; renewal is due at half of
    #: it.
    granted_seconds: int

    def left(self, now: Moment, high_water: Moment) -> float:
        """Return the seconds until it ends, never below zero."""
        return max(0.0, seconds_left(self.deadline, now, high_water))

    def state(self, now: Moment, high_water: Moment) -> LeaseState:
        """Tell whether it still holds."""
        return "granted" if seconds_left(self.deadline, now, high_water) > 0.0 else "expired"

    def extended(self, seconds: int, now: Moment, high_water: Moment) -> Lease:
        """Return the lease that ends `seconds` from now, or this one if that ends later."""
        wanted = after(now, seconds)
        if later(self.deadline, wanted, now, high_water) is self.deadline:
            return self
        return Lease(deadline=wanted, granted_seconds=seconds)


def granted(seconds: int, now: Moment) -> Lease:
    """Return a new lease of `seconds` from now."""
    return Lease(deadline=after(now, seconds), granted_seconds=seconds)

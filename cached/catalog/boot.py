"""What opening the catalog settles before anybody may ask it: which boot this is, and what each promise has
left."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from cached.catalog.tx import RECONCILED, Tx
from cached.catalog.writer import get_high_water, put_high_water
from cached.leases.deadline import Deadline, Moment, advance, age, before, carry, trusted


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What was found at opening."""

    fresh: bool
    new_boot: bool
    clock_trusted: bool
    high_water: Moment


def settle(tx: Tx, now: Moment) -> Opened:
    """After a reboot, count all deadlines by this boot.

    One transaction with the new high water, so that it happens once, whatever happens.
    """
    last = get_high_water(tx)
    known = last or now
    new_boot = known.boot_id != now.boot_id
    if new_boot:
        _carry_over(tx, now, known)
    high_water = advance(known, now)
    put_high_water(tx, high_water)
    return Opened(
        fresh=tx.get_meta(RECONCILED) is None,
        new_boot=new_boot,
        clock_trusted=trusted(now, known),
        high_water=high_water,
    )


def _carry_over(tx: Tx, now: Moment, last: Moment) -> None:
    def carried(deadline: Deadline) -> Deadline:
        return carry(deadline, now, last)

    for row in tx.sets():
        base = before(now, age(row.age_base, now, last))
        tx.put_set(replace(row, lease=carried(row.lease), age_base=base))
    for replica in tx.replicas():
        tx.put_replica(replace(replica, grant=carried(replica.grant)))

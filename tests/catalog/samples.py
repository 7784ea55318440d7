"""Rows and clocks for the catalog's tests."""

from __future__ import annotations

import asyncio

from cached.catalog.rows import (
    CheckRow,
    ContentRow,
    LedgerRow,
    ObjectRow,
    ReplicaRow,
    ReservationRow,
    ScopedRow,
    SetRow,
    TransferRow,
)
from cached.leases.deadline import Moment, after

NOW = Moment(boot_id="boot-1", boottime=1_000.0, wall=1_700_000_000.0)
CONTENT = "c" * 64


class FakeClock:
    """A clock that stands still until it is set."""

    def __init__(self, moment=NOW) -> None:
        self.moment = moment

    def now(self):
        return self.moment

    def pass_time(self, seconds):
        moment = self.moment
        self.moment = Moment(
            boot_id=moment.boot_id, boottime=moment.boottime + seconds, wall=moment.wall + seconds
        )

    def reboot(self, off_seconds, boot_id="boot-2", wall_error=0.0):
        self.moment = Moment(boot_id=boot_id, boottime=5.0, wall=self.moment.wall + off_seconds + wall_error)


def write(catalog, work):
    """Run `work` in a transaction of its own, and return its result."""
    return asyncio.run(catalog.write(work))


def a_set(number=1, **changes):
    fields = {
        "id": f"{number:032x}",
        "name": f"set-{number}",
        "owner": "alice",
        "content": CONTENT,
        "revision": 1,
        "status": "live",
        "record": b"\x00record",
        "age_base": NOW,
        "lease": after(NOW, 86_400),
        "originator": "node-1",
        "local": True,
    }
    return SetRow(**(fields | changes))


def a_content(content=CONTENT, **changes):
    fields = {"content": content, "tier": "disk", "bytes": 10, "physical": 8192, "state": "STABLE"}
    return ContentRow(**(fields | changes))


def a_check(content=CONTENT, **changes):
    fields = {"content": content, "tier": "disk", "wall": 1.5, "boot": "boot-1", "damaged": b'["f"]'}
    return CheckRow(**(fields | changes))


def a_replica(number=1, **changes):
    fields = {
        "set_id": f"{number:032x}",
        "content": CONTENT,
        "tier": "disk",
        "state": "COMMITTED",
        "grant": after(NOW, 3_600),
        "granted_seconds": 3_600,
        "bytes": 10,
        "owner": "alice",
        "created_wall": NOW.wall,
    }
    return ReplicaRow(**(fields | changes))


def a_reservation(txid="tx", **changes):
    fields = {"txid": txid, "purpose": "create", "tier": "disk", "bytes": 4096, "owner": "alice"}
    return ReservationRow(**(fields | changes))


def a_transfer(txid="tx", **changes):
    fields = {"txid": txid, "set_id": f"{1:032x}", "content": CONTENT, "tier": "disk", "source": "node-2"}
    return TransferRow(**(fields | changes))


def an_object(name="o1", **changes):
    return ObjectRow(**({"name": name, "entry": b"\x00{}"} | changes))


def a_scoped(name="o", **changes):
    fields = {"owner": "alice", "scope": "run-1", "bucket": "b", "name": name, "generation": 7, "bytes": 10}
    return ScopedRow(**(fields | changes))


def a_charge(hour=470_000, **changes):
    fields = {"hour": hour, "owner": "alice", "kind": "set", "tier": "disk", "scope": ""}
    return LedgerRow(**(fields | changes))

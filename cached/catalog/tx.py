"""What can be done inside one transaction of the catalog: typed rows in, typed rows out.

`put_…` inserts or replaces, `delete_…` of what is not there changes nothing, a single row that is not there
is None, and every list is in the order of its key.
"""

from __future__ import annotations

import sqlite3
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import Connection, Select, and_, delete, func, select, tuple_

from cached.catalog import tables
from cached.catalog.rows import (
    CheckRow,
    ContentRow,
    LedgerRow,
    MetaRow,
    ObjectRow,
    ReplicaRow,
    ReservationRow,
    ScopedRow,
    SetRow,
    TransferRow,
    UploadRow,
)
from cached.catalog.tables import Mapped
from cached.leases import lifecycle
from cached.sets.set import Tier

Row = TypeVar("Row", bound=msgspec.Struct)

#: Key in `meta`: what lies on disk has been compared with this database.
RECONCILED = "reconciled"

_CHARGE = tables.LEDGER.adding()
_TAKEN = tables.LEDGER.table.c
_WHOSE = (_TAKEN.owner, _TAKEN.kind, _TAKEN.tier, _TAKEN.scope)
_SUMS = (
    select(
        func.min(_TAKEN.hour).label("hour"),
        *_WHOSE,
        *(func.sum(column).label(column.name) for column in _TAKEN if not column.primary_key),
    )
    .group_by(*_WHOSE)
    .order_by(*_WHOSE)
)


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return SQLite's own connection, for statements that are the same each time."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


class Tx:
    """One transaction. Not to be kept after the function that was given it returns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plain = driver_of(connection)

    # Sets

    def put_set(self, row: SetRow) -> None:
        """Remember a set, or a new revision of it."""
        self._put(tables.SETS, row)

    def set(self, set_id: str) -> SetRow | None:
        """Return the set of that id."""
        return self._get(tables.SETS, set_id)

    def sets(self) -> list[SetRow]:
        """Return all sets that this node knows of, tombstones too."""
        return self._list(tables.SETS)

    def delete_set(self, set_id: str) -> None:
        """Forget a set; its replica and transfer must be gone."""
        self._delete(tables.SETS, set_id)

    # Contents and replicas

    def put_content(self, row: ContentRow) -> None:
        """Remember bytes on this node. Raises `Busy` when they are GOING (see `cached.leases.lifecycle`)."""
        old = self.content(row.content, row.tier)
        lifecycle.check(
            lifecycle.CONTENT, old.state if old else None, row.state, f"content {row.content[:12]}"
        )
        self._put(tables.CONTENTS, row)

    def content(self, content: str, tier: Tier) -> ContentRow | None:
        """Return the content's row in that tier."""
        return self._get(tables.CONTENTS, content, tier)

    def contents(self) -> list[ContentRow]:
        """Return all contents on this node."""
        return self._list(tables.CONTENTS)

    def delete_content(self, content: str, tier: Tier) -> None:
        """Forget bytes that are gone; refused while a replica refers to them."""
        self._delete(tables.CONTENTS, content, tier)

    def put_check(self, row: CheckRow) -> None:
        """Remember what a comparison found; the content's row must be there."""
        self._put(tables.CHECKS, row)

    def checks(self) -> list[CheckRow]:
        """Return what the last comparison of each content found."""
        return self._list(tables.CHECKS)

    def delete_check(self, content: str, tier: Tier) -> None:
        """Forget it: other bytes are to come. It goes by itself with the content's row."""
        self._delete(tables.CHECKS, content, tier)

    def put_replica(self, row: ReplicaRow) -> None:
        """Remember this node's copy of a set. Raises `Busy` when it is GOING."""
        old = self.replica(row.set_id)
        lifecycle.check(
            lifecycle.REPLICA, old.state if old else None, row.state, f"replica {row.set_id[:12]}"
        )
        self._put(tables.REPLICAS, row)

    def replica(self, set_id: str) -> ReplicaRow | None:
        """Return this node's copy of the set."""
        return self._get(tables.REPLICAS, set_id)

    def replicas(self) -> list[ReplicaRow]:
        """Return this node's copies of all sets."""
        return self._list(tables.REPLICAS)

    def delete_replica(self, set_id: str) -> None:
        """Forget this node's copy of the set."""
        self._delete(tables.REPLICAS, set_id)

    # Reservations, transfers and uploads

    def put_reservation(self, row: ReservationRow) -> None:
        """Set space aside."""
        self._put(tables.RESERVATIONS, row)

    def reservations(self) -> list[ReservationRow]:
        """Return all space set aside."""
        return self._list(tables.RESERVATIONS)

    def delete_reservation(self, txid: str) -> None:
        """Return the space that was set aside."""
        self._delete(tables.RESERVATIONS, txid)

    def put_transfer(self, row: TransferRow) -> None:
        """Remember a replica on its way here."""
        self._put(tables.TRANSFERS, row)

    def transfer(self, txid: str) -> TransferRow | None:
        """Return the transfer of that id."""
        return self._get(tables.TRANSFERS, txid)

    def transfers(self) -> list[TransferRow]:
        """Return all transfers to resume."""
        return self._list(tables.TRANSFERS)

    def delete_transfer(self, txid: str) -> None:
        """Forget a transfer that ended."""
        self._delete(tables.TRANSFERS, txid)

    def put_upload(self, row: UploadRow) -> None:
        """Remember a set on its way into the origin; the set's row must be there."""
        self._put(tables.UPLOADS, row)

    def uploads(self) -> list[UploadRow]:
        """Return all sets on their way into the origin."""
        return self._list(tables.UPLOADS)

    def delete_upload(self, set_id: str) -> None:
        """Forget it: all is there, or nobody wants it any more. It goes by itself with the set's row."""
        self._delete(tables.UPLOADS, set_id)

    # Objects, and what users took

    def put_object(self, row: ObjectRow) -> None:
        """Remember a copy of an object."""
        self._put(tables.OBJECTS, row)

    def objects(self) -> list[ObjectRow]:
        """Return all copies of objects."""
        return self._list(tables.OBJECTS)

    def delete_object(self, name: str) -> None:
        """Forget a copy of an object."""
        self._delete(tables.OBJECTS, name)

    def put_scoped(self, row: ScopedRow) -> None:
        """Remember an object written for a scope."""
        self._put(tables.SCOPED, row)

    def scoped(self, owner: str, scope: str, after: tuple[str, str], most: int) -> list[ScopedRow]:
        """Return the objects that a user wrote for a scope, those after a bucket and name, and so many at most."""
        columns = tables.SCOPED.table.c
        below = tuple_(columns.bucket, columns.name) > after
        wanted = and_(columns.owner == owner, columns.scope == scope, below)
        return self._rows(tables.SCOPED, tables.SCOPED.all.where(wanted).limit(most))

    def is_scoped(self, owner: str, scope: str, bucket: str, name: str) -> bool:
        """Tell whether a user is known to have written an object for a scope."""
        return self._get(tables.SCOPED, owner, scope, bucket, name) is not None

    def delete_scoped(self, owner: str, scope: str, bucket: str, name: str, until: int | None = None) -> None:
        """Forget that an object was written for a scope; with `until`, unless a newer generation was written."""
        row = self._get(tables.SCOPED, owner, scope, bucket, name)
        if until is not None and row is not None and row.generation > until:
            return
        self._delete(tables.SCOPED, owner, scope, bucket, name)

    def charge(self, *rows: LedgerRow) -> None:
        """Add to what users took."""
        if rows:
            self._connection.execute(_CHARGE, [tables.LEDGER.columns(row) for row in rows])

    def ledger(self, since: int = 0) -> list[LedgerRow]:
        """Return what users took since an hour, hour by hour."""
        return self._rows(tables.LEDGER, tables.LEDGER.all.where(_TAKEN.hour >= since))

    def taken(self, since: int = 0, *, owner: str | None = None, scope: str | None = None) -> list[LedgerRow]:
        """Return the sums of what users took since an hour, of one user or in one scope if that is named.

        The hour of each is the first of its sum.
        """
        wanted = [_TAKEN.hour >= since]
        wanted += [] if owner is None else [_TAKEN.owner == owner]
        wanted += [] if scope is None else [_TAKEN.scope == scope]
        found = self._connection.execute(_SUMS.where(and_(*wanted))).mappings()
        return [tables.LEDGER.row(dict(values)) for values in found]

    def forget_taken(self, before: int) -> None:
        """Forget what users took before an hour."""
        self._connection.execute(delete(tables.LEDGER.table).where(_TAKEN.hour < before))

    # Facts about the catalog

    def put_meta(self, key: str, value: str) -> None:
        """Remember a fact about the catalog itself."""
        self._put(tables.META, MetaRow(key=key, value=value))

    def get_meta(self, key: str) -> str | None:
        """Return that fact."""
        row = self._get(tables.META, key)
        return row.value if row else None

    def mark_reconciled(self) -> None:
        """Note that what lies on disk is known here: from now on a directory without a row is garbage."""
        self.put_meta(RECONCILED, "1")

    # How

    def _put(self, mapped: Mapped[Row], row: Row) -> None:
        self._plain.execute(mapped.upsert, mapped.columns(row))

    def _get(self, mapped: Mapped[Row], *key: Any) -> Row | None:
        found = self._plain.execute(mapped.one, mapped.keyed(*key)).fetchone()
        return mapped.plain(found) if found is not None else None

    def _list(self, mapped: Mapped[Row]) -> list[Row]:
        return self._rows(mapped, mapped.all)

    def _rows(self, mapped: Mapped[Row], chosen: Select[Any]) -> list[Row]:
        found = self._connection.execute(chosen.order_by(*mapped.table.primary_key)).mappings()
        return [mapped.row(dict(values)) for values in found]

    def _delete(self, mapped: Mapped[Row], *key: Any) -> None:
        self._plain.execute(mapped.delete, mapped.keyed(*key))

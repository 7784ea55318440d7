"""What can be done inside one transaction of the catalog: typed rows in, typed rows out.

`put_…` inserts or replaces, `delete_…` of what is not there changes nothing, a single row that is not there
is None, and every list is in the order of its key.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from cached.catalog import tables
from cached.catalog.rows import (
    ConfirmationRow,
    ContentRow,
    MetaRow,
    PinRow,
    RejectionRow,
    ReplicaRow,
    ReservationRow,
    SetRow,
    TransferRow,
    Usage,
)
from cached.catalog.tables import Mapped
from cached.sets.set import Tier

Row = TypeVar("Row", bound=msgspec.Struct)

#: Key in `meta`: what lies on disk has been compared with this database.
RECONCILED = "reconciled"


class Tx:
    """One transaction. Not to be kept after the function that was given it returns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

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

    def sets_named(self, name: str) -> list[SetRow]:
        """Return the sets of that name that are not deleted, whoever owns them."""
        columns = tables.SETS.table.c
        return self._list(tables.SETS, and_(columns.name == name, columns.status != "deleted"))

    def sets_with_prefix(self, prefix: str) -> list[SetRow]:
        """Return the sets whose id starts with these lower-case hex digits and that are not deleted."""
        columns = tables.SETS.table.c
        matching = and_(columns.id >= prefix, columns.id < prefix + "g", columns.status != "deleted")
        return self._list(tables.SETS, matching)

    def current(self, owner: str, name: str) -> SetRow | None:
        """Return the live set that the owner's name stands for: one made here, else the highest revision."""
        columns = tables.SETS.table.c
        live = self._list(
            tables.SETS, and_(columns.name == name, columns.owner == owner, columns.status == "live")
        )
        return max(live, key=lambda row: (row.local, row.revision, row.id), default=None)

    def delete_set(self, set_id: str) -> None:
        """Forget a set, with its rejections and confirmations; its replica and transfer must be gone."""
        self._delete(tables.SETS, set_id)

    # Contents and replicas

    def put_content(self, row: ContentRow) -> None:
        """Remember bytes on this node."""
        self._put(tables.CONTENTS, row)

    def content(self, content: str, tier: Tier) -> ContentRow | None:
        """Return the content's row in that tier."""
        return self._get(tables.CONTENTS, content, tier)

    def contents(self) -> list[ContentRow]:
        """Return all contents on this node."""
        return self._list(tables.CONTENTS)

    def delete_content(self, content: str, tier: Tier) -> None:
        """Forget bytes that are gone; refused while a replica or a pin refers to them."""
        self._delete(tables.CONTENTS, content, tier)

    def put_replica(self, row: ReplicaRow) -> None:
        """Remember this node's copy of a set."""
        self._put(tables.REPLICAS, row)

    def replica(self, set_id: str) -> ReplicaRow | None:
        """Return this node's copy of the set."""
        return self._get(tables.REPLICAS, set_id)

    def replicas(self) -> list[ReplicaRow]:
        """Return this node's copies of all sets."""
        return self._list(tables.REPLICAS)

    def replicas_of(self, content: str, tier: Tier) -> list[ReplicaRow]:
        """Return the replicas that share these bytes."""
        columns = tables.REPLICAS.table.c
        return self._list(tables.REPLICAS, and_(columns.content == content, columns.tier == tier))

    def touch_replica(self, set_id: str, wall: float) -> None:
        """Note that the replica was read, `wall` seconds after the epoch."""
        table = tables.REPLICAS.table
        self._connection.execute(
            update(table)
            .where(table.c.set_id == set_id, table.c.last_read_wall < wall)
            .values(last_read_wall=wall)
        )

    def delete_replica(self, set_id: str) -> None:
        """Forget this node's copy of the set."""
        self._delete(tables.REPLICAS, set_id)

    # Reservations and transfers

    def put_reservation(self, row: ReservationRow) -> None:
        """Set space aside."""
        self._put(tables.RESERVATIONS, row)

    def reservation(self, txid: str) -> ReservationRow | None:
        """Return the reservation of that id."""
        return self._get(tables.RESERVATIONS, txid)

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

    # Pins

    def put_pin(self, row: PinRow) -> None:
        """Remember an open reader; its content's row must exist."""
        self._put(tables.PINS, row)

    def pins(self) -> list[PinRow]:
        """Return all open readers."""
        return self._list(tables.PINS)

    def pins_of(self, content: str, tier: Tier) -> list[PinRow]:
        """Return the open readers of these bytes."""
        columns = tables.PINS.table.c
        return self._list(tables.PINS, and_(columns.content == content, columns.tier == tier))

    def delete_pin(self, row: PinRow) -> None:
        """Forget an open reader."""
        self._delete(tables.PINS, row.set_id, row.content, row.tier, row.pid, row.start_time)

    # Rejections and confirmations

    def put_rejection(self, row: RejectionRow) -> None:
        """Remember that a node refused a set."""
        self._put(tables.REJECTIONS, row)

    def rejection(self, set_id: str, node: str) -> RejectionRow | None:
        """Return the node's refusal of the set."""
        return self._get(tables.REJECTIONS, set_id, node)

    def rejections(self) -> list[RejectionRow]:
        """Return all refusals."""
        return self._list(tables.REJECTIONS)

    def delete_rejection(self, set_id: str, node: str) -> None:
        """Forget a refusal that lapsed."""
        self._delete(tables.REJECTIONS, set_id, node)

    def confirm(self, set_id: str, node: str) -> None:
        """Remember that a holder confirmed the set's tombstone."""
        self._put(tables.CONFIRMATIONS, ConfirmationRow(set_id=set_id, node=node))

    def confirmations(self, set_id: str) -> frozenset[str]:
        """Return the nodes that confirmed the set's tombstone."""
        rows = self._list(tables.CONFIRMATIONS, tables.CONFIRMATIONS.table.c.set_id == set_id)
        return frozenset(row.node for row in rows)

    # Facts about the catalog, and sums

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

    def usage(self, tier: Tier) -> Usage:
        """Return the physical bytes of a tier: set aside, held, and on their way out.

        A content that is COMING counts with its reservation.
        """
        contents, reservations = tables.CONTENTS.table.c, tables.RESERVATIONS.table.c
        held = self._connection.execute(
            select(contents.state, func.sum(contents.physical))
            .where(contents.tier == tier)
            .group_by(contents.state)
        )
        by_state = {state: int(total) for state, total in held}
        reserved = self._sum(reservations.bytes, reservations.tier == tier)
        return Usage(reserved=reserved, committed=by_state.get("STABLE", 0), going=by_state.get("GOING", 0))

    def owner_bytes(self, owner: str) -> int:
        """Return the logical bytes that count against the owner's quota: committed replicas, reservations."""
        replicas, reservations = tables.REPLICAS.table.c, tables.RESERVATIONS.table.c
        committed = and_(replicas.owner == owner, replicas.state == "COMMITTED")
        return self._sum(replicas.bytes, committed) + self._sum(
            reservations.logical, reservations.owner == owner
        )

    # How

    def _put(self, mapped: Mapped[Row], row: Row) -> None:
        self._connection.execute(mapped.upsert, mapped.columns(row))

    def _get(self, mapped: Mapped[Row], *key: Any) -> Row | None:
        found = self._connection.execute(mapped.all.where(mapped.matches(*key))).mappings().first()
        return mapped.row(found) if found is not None else None

    def _list(self, mapped: Mapped[Row], where: ColumnElement[bool] | None = None) -> list[Row]:
        query = mapped.all if where is None else mapped.all.where(where)
        found = self._connection.execute(query.order_by(*mapped.table.primary_key)).mappings()
        return [mapped.row(values) for values in found]

    def _delete(self, mapped: Mapped[Row], *key: Any) -> None:
        self._connection.execute(delete(mapped.table).where(mapped.matches(*key)))

    def _sum(self, column: ColumnElement[int], where: ColumnElement[bool]) -> int:
        return int(
            self._connection.execute(select(func.coalesce(func.sum(column), 0)).where(where)).scalar_one()
        )

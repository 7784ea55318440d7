"""The tables, and how a row's value lies in one: a field a column, a moment or deadline three.

`migrations` creates the tables; a test holds the two descriptions against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, get_type_hints

import msgspec
from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Float,
    Insert,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.types import TypeEngine

from cached.catalog import rows
from cached.leases.deadline import Deadline, Moment

Row = TypeVar("Row", bound=msgspec.Struct)

METADATA = MetaData()
_CLOCK_TYPES = (Deadline, Moment)
_SQL_TYPES: dict[object, type[TypeEngine[Any]]] = {
    str: Text,
    int: Integer,
    bool: Integer,
    float: Float,
    bytes: LargeBinary,
}


def _sql(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))


class Mapped(Generic[Row]):
    """A table that holds values of one kind, keyed by some of their fields."""

    def __init__(self, name: str, kind: type[Row], *key: str) -> None:
        self.kind = kind
        self.key = key
        hints = get_type_hints(kind)
        self._fields = {field: hints[field] for field in kind.__struct_fields__}
        columns = [column for field in self._fields for column in self._columns(field)]
        self.table = Table(name, METADATA, *columns)
        self.all: Select[Any] = select(self.table)
        #: What is done with single rows, as SQL with named parameters: to make it anew costs more than to run it.
        self.upsert = _sql(self._upsert())
        self.one = _sql(self.all.where(self._is_keyed()))
        self.delete = _sql(delete(self.table).where(self._is_keyed()))
        self._names = tuple(column.name for column in self.table.columns)

    def _columns(self, field: str) -> list[Column[Any]]:
        kind = self._fields[field]
        if kind in _CLOCK_TYPES:
            parts: tuple[tuple[str, type[TypeEngine[Any]]], ...] = (
                ("boot", Text),
                ("boottime", Float),
                ("wall", Float),
            )
            return [Column(f"{field}_{part}", sql, nullable=False) for part, sql in parts]
        return [Column(field, _SQL_TYPES.get(kind, Text), primary_key=field in self.key, nullable=False)]

    def _upsert(self) -> Insert:
        statement = insert(self.table)
        others = {c.name: statement.excluded[c.name] for c in self.table.columns if not c.primary_key}
        return statement.on_conflict_do_update(index_elements=list(self.key), set_=others)

    def adding(self) -> Insert:
        """Return the statement that adds the numbers of a row, its key apart, to those that are there."""
        statement = insert(self.table)
        others = [column for column in self.table.columns if not column.primary_key]
        sums = {column.name: column + statement.excluded[column.name] for column in others}
        return statement.on_conflict_do_update(index_elements=list(self.key), set_=sums)

    def _is_keyed(self) -> ColumnElement[bool]:
        return and_(*(self.table.c[name] == bindparam(name) for name in self.key))

    def keyed(self, *key: Any) -> dict[str, Any]:
        """Return the parameters of `one` and `delete` for the row that has this key."""
        return dict(zip(self.key, key, strict=True))

    def plain(self, values: tuple[Any, ...]) -> Row:
        """Return the row that has the columns which `one` has found."""
        return self.row(dict(zip(self._names, values, strict=True)))

    def columns(self, row: Row) -> dict[str, Any]:
        """Return the column values of a row."""
        values: dict[str, Any] = {}
        for field in self._fields:
            value = getattr(row, field)
            if isinstance(value, _CLOCK_TYPES):
                values[f"{field}_boot"] = value.boot_id
                values[f"{field}_boottime"] = value.boottime
                values[f"{field}_wall"] = value.wall
            else:
                values[field] = value
        return values

    def row(self, values: Mapping[str, Any]) -> Row:
        """Return the row that has these column values."""
        return self.kind(**{field: self._field(field, kind, values) for field, kind in self._fields.items()})

    @staticmethod
    def _field(field: str, kind: Any, values: Mapping[str, Any]) -> Any:
        if kind in _CLOCK_TYPES:
            boot, boottime, wall = (values[f"{field}_{part}"] for part in ("boot", "boottime", "wall"))
            return kind(boot_id=boot, boottime=boottime, wall=wall)
        return bool(values[field]) if kind is bool else values[field]


SETS = Mapped("sets", rows.SetRow, "id")
CONTENTS = Mapped("contents", rows.ContentRow, "content", "tier")
REPLICAS = Mapped("replicas", rows.ReplicaRow, "set_id")
RESERVATIONS = Mapped("reservations", rows.ReservationRow, "txid")
TRANSFERS = Mapped("transfers", rows.TransferRow, "txid")
CHECKS = Mapped("checks", rows.CheckRow, "content", "tier")
UPLOADS = Mapped("uploads", rows.UploadRow, "set_id")
OBJECTS = Mapped("objects", rows.ObjectRow, "name")
SCOPED = Mapped("scoped", rows.ScopedRow, "owner", "scope", "bucket", "name")
LEDGER = Mapped("ledger", rows.LedgerRow, "hour", "owner", "kind", "tier", "scope")
META = Mapped("meta", rows.MetaRow, "key")

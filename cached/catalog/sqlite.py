"""The catalog: one SQLite database, one writer, many readers.

* A write that returned is durable: write-ahead log, `synchronous = FULL`, answered after the commit.
* Readers have connections of their own, see the last commit, and never wait for the writer.
* Opening brings the schema up to date, looks for damage, and after a reboot counts every deadline by the new
  boot (see `cached.leases.deadline`), before anybody can ask.
* A database that is damaged raises `CatalogLost`, and a new one says so (`fresh`): bytes on disk are then
  adopted, never deleted.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from cached.catalog import boot, migrations, tables
from cached.catalog.errors import CatalogLost, translated
from cached.catalog.tx import Tx
from cached.catalog.writer import Writer
from cached.leases.deadline import Clock, Moment

__all__ = ["Catalog", "Tx", "set_aside"]

T = TypeVar("T")

#: Readers at a time.
READERS = 4
#: The files of a database beside the main one.
_COMPANIONS = ("-wal", "-shm", "-journal")
#: Seconds to wait for a lock of another process; there should be none.
_LOCK_SECONDS = 10.0


class Catalog:
    """An open catalog; made by `open`."""

    def __init__(self, path: Path, clock: Clock, engines: tuple[Engine, Engine], opened: boot.Opened) -> None:
        self.path = path
        #: As found: what lies on disk was never compared with this database. Adopt it, never delete it.
        self.fresh = opened.fresh
        #: The node has rebooted since the last commit.
        self.new_boot = opened.new_boot
        #: After that reboot the wall clock was believed; else promises were held (warn).
        self.clock_trusted = opened.clock_trusted
        self._write_engine, self._read_engine = engines
        self._writer = Writer(self._write_engine, clock, opened.high_water)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="catalog-reader")

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Catalog:
        """Open the catalog at `path`, creating or upgrading it.

        Raises `CatalogLost` if it is damaged, `CatalogTooNew` if a newer program wrote it.
        """
        _create(path)
        engines = (_engine(path, readers=0), _engine(path, readers=READERS + 1))
        try:
            with translated():
                migrations.migrate(path)
                with engines[0].connect() as connection:
                    _look_for_damage(connection)
                    with connection.begin():
                        opened = boot.settle(Tx(connection), clock.now())
        except BaseException:
            _dispose(engines)
            raise
        return cls(path, clock, engines, opened)

    @property
    def high_water(self) -> Moment:
        """The moment of the last commit."""
        return self._writer.high_water

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction on the writer's thread; return its result once that is durable.

        What it raises comes out here, and its changes are taken back. `work` must neither block nor keep side
        effects: other writes share its commit. If the caller is cancelled, a write that has begun is still
        committed.
        """
        return await asyncio.wrap_future(self._writer.submit(work))

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run `work` on a consistent view of the last commit, in a reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def read_now(self, work: Callable[[Tx], T]) -> T:
        """Do as `read`, in this thread."""
        with translated(), self._read_engine.connect() as connection, connection.begin():
            return work(Tx(connection))

    async def beat(self) -> None:
        """Write down the present moment, so that a reboot knows how long the node was off."""
        await self.write(lambda _: None)

    def check(self) -> list[str]:
        """Check every page, index and reference; return what is wrong, in words. Blocks, long if large."""
        with translated(), closing(sqlite3.connect(self.path, timeout=_LOCK_SECONDS)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
            dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        wrong = [] if found == ["ok"] else found
        return wrong + [f"a row of {row[0]} refers to a missing row of {row[2]}" for row in dangling]

    def close(self) -> None:
        """Finish queued writes, write the log back and close; again changes nothing."""
        self._writer.close()
        self._readers.shutdown()
        _dispose((self._write_engine, self._read_engine))


def set_aside(path: Path) -> Path:
    """Rename a lost database and its log, for later examination; return its new path."""
    number = 1
    while any(path.parent.glob(f"{path.name}.lost-{number}*")):
        number += 1
    aside = path.with_name(f"{path.name}.lost-{number}")
    for suffix in ("", *_COMPANIONS):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    migrations.fsync(path.parent)
    return aside


def _create(path: Path) -> None:
    """Make sure that there is a file, readable by the daemon alone; a log without its database is a loss."""
    wal = path.with_name(path.name + "-wal")
    if not path.exists() and wal.exists():
        raise CatalogLost(
            f"the catalog {path} is gone, only its log is left", hint="it is rebuilt from disk at start"
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _engine(path: Path, *, readers: int) -> Engine:
    """Return an engine with one writing connection, or with up to `readers` reading ones."""

    def connect() -> sqlite3.Connection:
        # SQLAlchemy, not the driver, begins transactions: the driver would do it too late and break
        # savepoints.
        connection = sqlite3.connect(
            path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        if readers:
            connection.execute("PRAGMA query_only = ON")
        return connection

    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=readers or 1,
        max_overflow=0,
        pool_timeout=60,
    )
    begin = "BEGIN" if readers else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _look_for_damage(connection: Connection) -> None:
    """Raise `CatalogLost` when a page is damaged or a table is missing."""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(10)")]
    names = {
        str(row[0])
        for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    found += [f"no table {name}" for name in tables.METADATA.tables if name not in names]
    connection.commit()
    if found != ["ok"]:
        raise CatalogLost(
            f"the catalog is damaged: {'; '.join(found)}",
            hint="it is set aside and rebuilt from disk at start",
        )


def _dispose(engines: tuple[Engine, Engine]) -> None:
    for engine in engines:
        engine.dispose()

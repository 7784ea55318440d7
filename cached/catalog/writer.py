"""The one thread that writes: queued writes share a commit, and each fails alone.

Every write has a savepoint inside the shared transaction, so one that raises takes back only its own changes.
Nobody is answered before the commit is durable. The clocks' high water is written with every commit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine

from cached.catalog.errors import CatalogError, translated
from cached.catalog.tx import Tx, driver_of
from cached.leases.deadline import Clock, Moment, advance

T = TypeVar("T")

#: Writes that share a commit at most, so that the first of them does not wait for long.
MAX_GROUP = 256
#: Key in `meta`: the `Moment` of the last commit.
HIGH_WATER = "high_water"


class _Job(msgspec.Struct, eq=False):
    """A write on its way: what to do, whom to tell, and what came of it."""

    work: Callable[[Tx], Any]
    future: Future[Any]
    value: Any = None
    error: BaseException | None = None

    def tell(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Owns the writing connection; `submit` from any thread."""

    def __init__(self, engine: Engine, clock: Clock, high_water: Moment) -> None:
        self.high_water = high_water
        self._engine = engine
        self._clock = clock
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="catalog-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Tx], T]) -> Future[T]:
        """Queue a write; the future has its result once that is durable, or the error that undid it."""
        job = _Job(work, Future())
        with self._closing:
            if self._closed:
                raise CatalogError("the catalog is closed", hint="the daemon is stopping")
            self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        with self._engine.connect() as connection:
            while group := self._next_group():
                self._commit(connection, group)

    def _next_group(self) -> list[_Job]:
        """Wait for a write, and take along what else is waiting; empty once closed."""
        first = self._queue.get()
        group = [] if first is None else [first]
        while group and len(group) < MAX_GROUP and not self._queue.empty():
            job = self._queue.get()
            if job is None:
                self._queue.put(None)
                break
            group.append(job)
        return group

    def _commit(self, connection: Connection, group: list[_Job]) -> None:
        running = [job for job in group if job.future.set_running_or_notify_cancel()]
        try:
            with translated(), connection.begin():
                for job in running:
                    _attempt(connection, job)
                high_water = advance(self.high_water, self._clock.now())
                put_high_water(Tx(connection), high_water)
        except BaseException as error:  # noqa: BLE001 - each waiting caller is told, the thread goes on
            for job in running:
                job.error = error
        else:
            self.high_water = high_water
        for job in running:
            job.tell()


def put_high_water(tx: Tx, moment: Moment) -> None:
    """Write down the latest moment that this node has seen."""
    tx.put_meta(HIGH_WATER, msgspec.json.encode(moment).decode())


def get_high_water(tx: Tx) -> Moment | None:
    """Return the moment of the last commit; None in a new database."""
    text = tx.get_meta(HIGH_WATER)
    return None if text is None else msgspec.json.decode(text, type=Moment)


def _attempt(connection: Connection, job: _Job) -> None:
    """Do one write in a savepoint of its own. Raises only if SQLite has undone the whole transaction."""
    plain = driver_of(connection)
    plain.execute("SAVEPOINT write")
    try:
        with translated():
            job.value = job.work(Tx(connection))
            plain.execute("RELEASE write")
    except BaseException as error:
        if not plain.in_transaction:  # a full disk or failed I/O may have ended it
            raise
        job.error = error
        plain.execute("ROLLBACK TO write")
        plain.execute("RELEASE write")

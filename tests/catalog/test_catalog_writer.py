"""One writer: shared commits, separate failures, answers only for what is durable."""

from __future__ import annotations

import asyncio
import threading

import pytest
from cached.catalog.errors import CatalogError
from cached.catalog.sqlite import Catalog
from cached.errors import NameTaken
from sqlalchemy import event
from tests.catalog import samples
from tests.catalog.samples import FakeClock


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog.open(tmp_path / "catalog.db", FakeClock())
    yield opened
    opened.close()


def held_up(catalog):
    """Keep the writer busy, so that what comes next is queued; return the event that lets it go on."""
    started, go = threading.Event(), threading.Event()

    def wait(_):
        started.set()
        go.wait(120)

    future = catalog._writer.submit(wait)
    assert started.wait(120)
    return future, go


def test_queued_writes_share_a_commit_and_each_fails_alone(catalog):
    def refuse(tx):
        tx.put_set(samples.a_set(2))
        raise NameTaken("the name is taken")

    def dangle(tx):
        tx.put_set(samples.a_set(4))
        tx.put_replica(samples.a_replica(99))

    async def scenario():
        _, go = held_up(catalog)
        waiting = [
            asyncio.ensure_future(catalog.write(work))
            for work in (
                lambda tx: tx.put_set(samples.a_set(1)) or "first",
                refuse,
                lambda tx: (tx.put_set(samples.a_set(3)), [row.id for row in tx.sets()])[1],
                dangle,
                lambda tx: tx.put_set(samples.a_set(5)),
            )
        ]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(scenario())
    assert results[0] == "first"
    assert isinstance(results[1], NameTaken)
    assert results[2] == [f"{n:032x}" for n in (1, 3)]
    assert isinstance(results[3], CatalogError)
    assert results[4] is None
    assert [row.id for row in catalog.read_now(lambda tx: tx.sets())] == [f"{n:032x}" for n in (1, 3, 5)]


def test_many_writers_cost_few_commits(catalog):
    commits = []
    event.listen(catalog._write_engine, "commit", lambda _: commits.append(1))

    async def scenario():
        _, go = held_up(catalog)
        waiting = [
            asyncio.ensure_future(catalog.write(lambda tx, n=n: tx.put_set(samples.a_set(n))))
            for n in range(200)
        ]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*waiting)

    asyncio.run(scenario())
    assert len(catalog.read_now(lambda tx: tx.sets())) == 200
    assert len(commits) == 2


def test_a_reader_sees_the_last_commit_and_does_not_wait_for_the_writer(catalog):
    samples.write(catalog, lambda tx: tx.put_set(samples.a_set(1)))
    started, go = threading.Event(), threading.Event()

    def slow(tx):
        tx.put_set(samples.a_set(2))
        started.set()
        go.wait(120)

    future = catalog._writer.submit(slow)
    assert started.wait(120)
    assert len(asyncio.run(catalog.read(lambda tx: tx.sets()))) == 1
    go.set()
    future.result()
    assert len(asyncio.run(catalog.read(lambda tx: tx.sets()))) == 2


def test_a_write_cancelled_while_it_waits_is_not_done_and_one_that_runs_is(catalog):
    async def scenario():
        running, go = held_up(catalog)
        waiting = asyncio.ensure_future(catalog.write(lambda tx: tx.put_set(samples.a_set(1))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not running.cancel()
        go.set()
        await catalog.write(lambda tx: tx.put_set(samples.a_set(2)))

    asyncio.run(scenario())
    assert [row.name for row in catalog.read_now(lambda tx: tx.sets())] == ["set-2"]


def test_closing_finishes_what_is_queued_and_refuses_what_comes_after(tmp_path):
    catalog = Catalog.open(tmp_path / "catalog.db", FakeClock())
    _, go = held_up(catalog)
    queued = catalog._writer.submit(lambda tx: tx.put_set(samples.a_set(1)))
    go.set()
    catalog.close()
    catalog.close()
    assert queued.result(0) is None
    with pytest.raises(CatalogError, match="closed"):
        samples.write(catalog, lambda tx: None)
    again = Catalog.open(tmp_path / "catalog.db", FakeClock())
    assert len(again.read_now(lambda tx: tx.sets())) == 1
    again.close()


def test_each_commit_moves_the_high_water(catalog):
    clock = catalog._writer._clock
    clock.pass_time(60)
    asyncio.run(catalog.beat())
    assert catalog.high_water == clock.moment

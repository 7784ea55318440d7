"""Blocks set aside: given back as the bytes come that they were kept for, and never long before."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import NoSpace
from cached.node import beside, drive
from cached.node.flight import Flight
from cached.storage.ballast import Ballast
from cached.storage.staging import Staging
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
SIZE = 200 << 20


@pytest.mark.parametrize("step", [0, 1 << 20, 8 << 20])
def test_what_is_given_back_early_is_little_beyond_what_has_come(tmp_path, monkeypatch, step):
    monkeypatch.setattr(beside, "GIVE_WAY", 0.01)

    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            flight = Flight(set_id="s", content="c", txid="t")
            ballast = node.space._ballast["t"] = Ballast(tmp_path / "ballast", SIZE)
            ballast.use(beside.AHEAD)  # when the tree was made
            async with beside.giving_way(node, flight):
                for number in range(1, 11):
                    flight.progress.bytes_present += step
                    early = beside.LOOKS * step + beside.AHEAD
                    await until(lambda left=SIZE - number * step - early: ballast.left == left)
            assert await beside.gave_all(node, flight)
            assert ballast.left == 0
            assert not await beside.gave_all(node, flight)

    asyncio.run(story())


def test_what_has_come_goes_to_the_device_as_soon_as_it_is_much_and_what_is_little_waits(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(beside, "GIVE_WAY", 0.01)
    written = []

    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(8 << 20)})
            await w.gossip()
            manifest = a.stores["disk"].manifest(view.content)
            b.shelf.replicas[view.id] = a.shelf.replicas[view.id]
            flight = Flight(set_id=view.id, content=view.content, txid="t", manifest=manifest)
            monkeypatch.setattr(
                Staging, "write_ahead", lambda self, _: written.append(flight.progress.bytes_present)
            )
            async with beside.writing(b, flight):
                for number in range(1, 4):
                    flight.progress.bytes_present += beside.WRITE_FROM
                    await until(lambda count=number: len(written) == count)
                flight.progress.bytes_present += beside.WRITE_FROM - 1
                await asyncio.sleep(0.1)
                assert written == [beside.WRITE_FROM * number for number in (1, 2, 3)]
                monkeypatch.setattr(beside, "WRITE_AHEAD", 0.0)
                await until(lambda: len(written) == 4)
                await asyncio.sleep(0.1)
                assert len(written) == 4  # nothing came since
            del b.shelf.replicas[view.id]

    asyncio.run(story())


@pytest.mark.parametrize(("times", "state"), [(1, "COMMITTED"), (2, None)])
def test_who_finds_the_disk_full_while_its_own_blocks_are_set_aside_gives_them_back_and_goes_on(
    tmp_path, monkeypatch, times, state
):
    monkeypatch.setattr("cached.node.receive.PAUSE", 0.0)

    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(8 << 20)})
            await w.gossip()
            bring, failures = b.direct.fetch, iter(range(times))

            async def full(*args):
                if next(failures, None) is not None:
                    raise NoSpace("no space left")
                await bring(*args)

            b.direct.fetch = full
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert answer.answer == "OK"
            await until(lambda: view.id not in b.transfers)
            row = b.shelf.replicas.get(view.id)
            assert (row and row.state) == state

    asyncio.run(story())


def test_who_looks_at_a_transfer_for_the_first_time_is_told_how_fast_it_is(monkeypatch):
    monkeypatch.setattr(beside, "MEASURE", 0.05)

    async def story():
        flight = Flight(set_id="s", content="c", txid="t")
        with beside.measured(flight):
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 2:
                flight.progress.by_source["b"] = flight.progress.by_source.get("b", 0) + 1000
                await asyncio.sleep(0.02)
        assert flight.rate() > 0

    asyncio.run(story())

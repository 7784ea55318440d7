"""What users hold and move is written down, over stops, crashes and reboots, and shown to those whom it concerns."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached import wire
from cached.addresses import Address
from cached.catalog.errors import CatalogError
from cached.errors import Forbidden, UsageError
from cached.leases.meter import Line
from cached.node import begin, ledger, objects, usage
from cached.node.objects import PutOptions
from tests.node.doubles import BOOT
from tests.node.fakes import caller, create_set, until, world

ADA, BOB, ROOT = caller("ada"), caller("bob"), caller("root", admin=True)
HERE = Address("bucket", "name")
MB = 1 << 20


async def taken(node, who=ADA, **wanted):
    """The ledger as usage shows it: (owner, kind, tier, scope) -> figures."""
    found = await usage.usage(node, who, **wanted)
    return {
        (line["owner"], line["kind"], line["tier"], line["scope"]): tuple(list(line.values())[4:])
        for line in found["ledger"]
    }


async def read(node, who, **more):
    opened = await objects.open_object(node, who, HERE, token="", **more)
    os.close(opened.fd)
    objects.release(node, opened.pin)
    return opened


def story(test, tmp_path):
    async def run():
        async with world(tmp_path) as w:
            await test(w)

    asyncio.run(run())


def test_a_set_is_charged_to_its_owner_for_as_long_as_it_is_leased_here(tmp_path):
    async def tell(w):
        a = await w.node("a", memory=True)
        await ledger.begin(a)
        await create_set(a, ADA, "one", {"f": b"x" * 1000}, lease_seconds=7200, scope="run-1")
        await create_set(a, ADA, "two", {"f": b"y" * 50}, lease_seconds=3600, tier="memory")
        await ledger.write(a)
        w.clock.pass_(3000)
        assert await taken(a) == {
            ("ada", "set", "disk", ""): (50 * 3000.0, 0, 0, 0, 0),
            ("ada", "set", "memory", ""): (50 * 3000.0, 0, 0, 0, 0),
            ("ada", "set", "disk", "run-1"): (1000 * 3000.0, 0, 0, 0, 0),
        }
        w.clock.pass_(3000)
        await ledger.write(a)
        w.clock.pass_(1000)
        found = await taken(a)
        assert found["ada", "set", "disk", ""][0] == 50 * 6000, "its lease has ended"
        assert found["ada", "set", "disk", "run-1"][0] == 1000 * 7000

    story(tell, tmp_path)


def test_a_killed_node_charges_what_lay_on_disk_when_it_is_back_and_once(tmp_path):
    async def tell(w):
        a = await w.node("a")
        await ledger.begin(a)
        await create_set(a, ADA, "one", {"f": b"x" * 1000}, lease_seconds=86_400)
        await ledger.write(a)
        w.clock.pass_(20)
        await w.crash("a")
        w.clock.pass_(500)
        a = await w.node("a")
        await ledger.begin(a)
        assert (await taken(a))["ada", "set", "disk", ""][0] == 1000 * 520.0
        await w.crash("a")
        a = await w.node("a")
        await ledger.begin(a)
        assert (await taken(a))["ada", "set", "disk", ""][0] == 1000 * 520.0

    story(tell, tmp_path)


def test_after_a_reboot_memory_is_charged_from_then_on(tmp_path):
    async def tell(w):
        a = await w.node("a", memory=True)
        await ledger.begin(a)
        line = Line("ada", "set", "memory", "")
        await create_set(a, ADA, "one", {"f": b"x" * 1000}, lease_seconds=86_400, tier="memory")
        assert (await ledger.held(a))[line] == 1000
        await ledger.write(a)
        await w.crash("a")
        w.clock.boot_id = BOOT[:-1] + "2"
        w.clock.boottime = 10.0
        w.clock.wall += 500
        a = await w.node("a", memory=True)
        await ledger.begin(a)
        found = await taken(a)
        assert found["ada", "set", "disk", ""][0] == 1000 * 500.0
        assert ("ada", "set", "memory", "") not in found

    story(tell, tmp_path)


def test_objects_are_charged_to_those_who_use_them_and_what_they_move(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=64 * MB)
        await ledger.begin(a)
        w.origin.store("bucket", "name", b"x" * 1000)
        await read(a, ADA, scope="run-1")
        await ledger.write(a)
        w.clock.pass_(100)
        assert await taken(a, scope="run-1") == {
            ("ada", "object", "disk", "run-1"): (1000 * 100.0, 0, 0, 0, 0),
            ("ada", "object", "origin", "run-1"): (0.0, 0, 0, 1000, 2),
        }
        await read(a, BOB)
        await ledger.write(a)
        w.clock.pass_(10)
        assert await taken(a, BOB) == {
            ("bob", "object", "disk", ""): (500 * 10.0, 1000, 1, 0, 0),
            ("bob", "object", "origin", ""): (0.0, 0, 0, 0, 1),
        }
        fd = os.memfd_create("new")
        os.write(fd, b"y" * 300)
        try:
            await objects.put(a, ADA, Address("bucket", "new"), fd, "", PutOptions(scope="run-2"))
        finally:
            os.close(fd)
        assert (await taken(a, scope="run-2"))["ada", "object", "origin", "run-2"] == (0.0, 0, 0, 300, 1)

    story(tell, tmp_path)


def test_users_see_their_own_and_administrators_all(tmp_path):
    async def tell(w):
        a = await w.node("a")
        await ledger.begin(a)
        for who in (ADA, BOB):
            await create_set(a, who, "one", {"f": b"x" * 1000}, lease_seconds=86_400)
        await ledger.write(a)
        w.clock.pass_(10)
        assert {key[0] for key in await taken(a, BOB)} == {"bob"}
        assert {key[0] for key in await taken(a, BOB, user="bob")} == {"bob"}
        assert {key[0] for key in await taken(a, ROOT)} == {"ada", "bob"}
        assert {key[0] for key in await taken(a, ROOT, user="ada")} == {"ada"}
        with pytest.raises(Forbidden):
            await usage.usage(a, BOB, user="ada")
        found = await usage.usage(a, ROOT)
        assert [item["owner"] for item in found["items"]] == ["ada", "bob", "root"]
        assert (
            found["sums"]["byte_seconds"] == sum(line["byte_seconds"] for line in found["ledger"]) == 20_000
        )
        assert [item["owner"] for item in (await usage.usage(a, BOB))["items"]] == ["bob"]

    story(tell, tmp_path)


def test_since_counts_from_the_beginning_of_an_hour(tmp_path):
    async def tell(w):
        w.clock.wall = 1_700_000_000.0 // 3600 * 3600
        a = await w.node("a")
        await ledger.begin(a)
        await create_set(a, ADA, "one", {"f": b"x"}, lease_seconds=86_400)
        await ledger.write(a)
        for _ in range(3):
            w.clock.pass_(3600)
            await ledger.write(a)

        async def seconds(since):
            return (await usage.usage(a, ADA, since=since))["sums"]["byte_seconds"]

        assert await seconds(None) == 3 * 3600
        assert await seconds("1h") == 3600
        assert await seconds("90m") == 2 * 3600
        assert await seconds("2023-11-15T00:00:00+01:00") == 2 * 3600
        assert await seconds("2023-11-14") == 3 * 3600
        assert await seconds("0s") == 0
        assert (await usage.usage(a, ADA, since="1h"))["since"] == "2023-11-15T00:00:00Z"
        for wrong in ("yesterday", "7", "2023-13-01", ""):
            with pytest.raises(UsageError):
                await seconds(wrong)

    story(tell, tmp_path)


def test_what_the_catalog_does_not_take_is_written_down_later_and_a_stop_writes_the_rest(tmp_path):
    async def tell(w):
        a = await w.node("a")
        await ledger.begin(a)
        await create_set(a, ADA, "one", {"f": b"x"}, lease_seconds=86_400)
        await ledger.write(a)
        w.clock.pass_(10)
        real = a.catalog.write

        async def full(_work):
            raise CatalogError("the disk is full")

        a.catalog.write = full
        with pytest.raises(CatalogError):
            await ledger.write(a)
        running = asyncio.create_task(ledger.run(a))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        assert a.counters.snapshot()["ledger.failed"] == 1
        a.catalog.write = real
        w.clock.pass_(10)
        running = asyncio.create_task(ledger.run(a))
        await asyncio.sleep(0)
        running.cancel()
        await until(running.done)
        (row,) = await a.catalog.read(lambda tx: tx.ledger())
        assert (row.owner, row.byte_seconds) == ("ada", 20.0)

    story(tell, tmp_path)


def test_what_is_older_than_the_ledger_looks_back_is_forgotten(tmp_path):
    async def tell(w):
        a = await w.node("a")
        await ledger.begin(a)
        ledger.spent(a, "ada", "", 5, 1)
        await ledger.write(a)
        w.clock.pass_((ledger.KEPT - 1) * 3600)
        assert await taken(a) == {("ada", "set", "origin", ""): (0.0, 0, 0, 5, 1)}
        w.clock.pass_(3 * 3600)
        assert await taken(a) == {}

    story(tell, tmp_path)


def test_what_a_set_takes_from_and_brings_to_the_origin_is_its_owners(tmp_path):
    async def tell(w):
        a = await w.node("a", buckets={"data": ("*",)})
        a.origin = w.origin
        await ledger.begin(a)
        w.origin.store("data", "in/one", b"x" * 1000)
        w.origin.store("data", "in/empty", b"")
        wishes = wire.CreateOptions(source="gs://data/in", lease_seconds=3600, scope="run-1")
        creation = await begin.begin(a, ADA, "drawn", wishes, 0, 0)
        await creation.draw()
        await creation.seal()
        assert await taken(a) == {("ada", "set", "origin", "run-1"): (0.0, 0, 0, 1000, 1)}
        await create_set(a, ADA, "kept", {"f": b"y" * 300}, lease_seconds=3600, origin="gs://data/out")
        await until(lambda: not a.uploads)
        assert (await taken(a))["ada", "set", "origin", ""] == (0.0, 0, 0, 300, 1)

    story(tell, tmp_path)

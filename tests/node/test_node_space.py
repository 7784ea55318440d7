"""Space: reserved before a byte is written, given back by whoever does not use it, counted once."""

from __future__ import annotations

import asyncio

import pytest
from cached.catalog.rows import ReservationRow
from cached.errors import CachedError, NoSpace, QuotaExceeded
from cached.leases import capacity
from cached.node import space as space_module
from tests.node.fakes import NOTHING, caller, create_set, left_behind, world

ALICE = caller("alice")
MIB = 1 << 20


def reservation(
    txid: str, size: int, *, logical: int = 0, owner: str = "alice", tier="disk"
) -> ReservationRow:
    return ReservationRow(txid=txid, purpose="create", tier=tier, bytes=size, logical=logical, owner=owner)


def test_the_tier_is_never_over_committed_and_every_byte_comes_back(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            space = node.space
            assert space.free("disk") == 10 * MIB
            await space.reserve(reservation("a", 6 * MIB))
            assert (space.free("disk"), space.reserved("disk")) == (4 * MIB, 6 * MIB)
            with pytest.raises(NoSpace) as caught:
                await space.reserve(reservation("b", 5 * MIB))
            assert caught.value.details == {"bytes_needed": 5 * MIB, "bytes_free": 4 * MIB}
            await space.release("a")
            await space.release("a")
            assert space.free("disk") == 10 * MIB
            node.stores["disk"].discard("a")
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_many_who_reserve_at_once_get_what_there_is_and_not_more(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            asked = (node.space.reserve(reservation(f"t{number}", 3 * MIB)) for number in range(8))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(result is None for result in results) == 3
            assert all(result is None or isinstance(result, NoSpace) for result in results)
            assert node.space.reserved("disk") == 9 * MIB

    asyncio.run(story())


def test_a_cancelled_reservation_is_none(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            for turns in range(6):
                task = asyncio.create_task(node.space.reserve(reservation(f"t{turns}", 3 * MIB)))
                for _ in range(turns):
                    await asyncio.sleep(0.001 * turns)
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    await node.space.release(f"t{turns}")
                    node.stores["disk"].discard(f"t{turns}")
            assert node.space.free("disk") == 10 * MIB
            assert left_behind(node) == NOTHING
            assert not node.space._ballast

    asyncio.run(story())


def test_a_reservation_without_blocks_leaves_nothing(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            for error in (NoSpace("full"), CachedError("the disk is broken")):

                def fail(*_args, error=error):
                    raise error

                monkeypatch.setattr(space_module, "Ballast", fail)
                with pytest.raises(type(error)):
                    await node.space.reserve(reservation("a", 4 * MIB))
                assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_few_bytes_are_promised_on_paper_until_they_are_many_together(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=100 * MIB)
            monkeypatch.setattr(space_module, "FLOOR_BYTES", 16 * MIB)
            for number in range(4):
                await node.space.reserve(reservation(f"t{number}", MIB))
            assert not node.space._ballast
            await node.space.reserve(reservation("t4", MIB))
            assert node.space.ballast("t4") is not None
            await node.space.release("t0")
            await node.space.reserve(reservation("t5", MIB))
            assert node.space.ballast("t5") is None

    asyncio.run(story())


def test_a_reservation_ends_though_its_staging_area_cannot_be_removed(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await node.space.reserve(reservation("t", 4 * MIB))

            def fail(_txid):
                raise CachedError("the device fails")

            monkeypatch.setattr(node.stores["disk"], "discard", fail)
            with pytest.raises(CachedError, match="the device fails"):
                await node.space.undo("t")
            assert node.space.reserved("disk") == 0
            assert node.catalog.read_now(lambda tx: tx.reservations()) == []

    asyncio.run(story())


def test_few_bytes_are_promised_on_paper_and_more_with_their_blocks(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            await node.space.reserve(reservation("few", space_module.FEW))
            assert node.space.ballast("few") is None
            assert left_behind(node)["incoming"] == []
            await node.space.reserve(reservation("more", space_module.FEW + 1))
            assert node.space.ballast("more") is not None
            assert node.space.free("disk") == 10 * MIB - 2 * space_module.FEW - 1

    asyncio.run(story())


def test_what_is_written_in_place_of_ballast_is_not_counted_twice(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            taken = []
            for txid in "abcdefghijklmnopqrst":  # others write to this partition too, but hardly each time
                if taken and min(taken) < 32 * MIB:
                    break
                await node.space.reserve(reservation(txid, 64 * MIB))
                ballast = node.space.ballast(txid)
                if not ballast.held:
                    pytest.skip("this filesystem cannot set blocks aside")
                before = node.space.ledger("disk").partition_free
                ballast.use(64 * MIB)
                with (node.stores["disk"].root / "incoming" / txid / "data" / "f").open("wb") as file:
                    file.write(b"x" * 64 * MIB)
                    file.flush()
                taken.append(before - node.space.ledger("disk").partition_free)
            assert min(taken) < 32 * MIB

    asyncio.run(story())


def test_growing_asks_for_the_difference_only(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            await node.space.reserve(reservation("a", 6 * MIB))
            await node.space.grow("a", 4 * MIB)
            assert node.space.reserved("disk") == 6 * MIB
            await node.space.grow("a", 9 * MIB)
            assert node.space.reserved("disk") == 9 * MIB
            with pytest.raises(NoSpace):
                await node.space.grow("a", 11 * MIB)
            assert node.space.reserved("disk") == 9 * MIB
            (row,) = node.catalog.read_now(lambda tx: tx.reservations())
            assert (row.txid, row.bytes) == ("a", 9 * MIB)

    asyncio.run(story())


def test_the_quota_counts_leased_replicas_and_what_is_coming_each_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", quota=1000)
            await create_set(node, ALICE, "one", {"f": b"x" * 600}, lease_seconds=60)
            assert node.space.logical("alice") == 600
            with pytest.raises(QuotaExceeded):
                await create_set(node, ALICE, "two", {"f": b"y" * 500})
            await create_set(node, caller("bob"), "two", {"f": b"y" * 500})
            await node.space.reserve(reservation("a", MIB, logical=400))
            assert node.space.logical("alice") == 1000
            with pytest.raises(QuotaExceeded):
                await node.space.reserve(reservation("b", MIB, logical=1))
            await node.space.release("a")
            w.clock.pass_(61)
            assert node.space.logical("alice") == 0, "an expired replica goes when space is wanted"
            await create_set(node, ALICE, "two", {"f": b"y" * 900})

    asyncio.run(story())


def test_two_sets_of_one_content_take_their_space_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=20 * MIB)
            await create_set(node, ALICE, "one", {"f": b"x" * 5 * MIB})
            free = node.space.free("disk")
            await create_set(node, ALICE, "two", {"f": b"x" * 5 * MIB})
            await create_set(node, caller("bob"), "three", {"f": b"x" * 5 * MIB})
            assert node.space.free("disk") == free

    asyncio.run(story())


def test_reservations_of_transfers_that_go_on_are_held_after_a_restart_also_on_a_full_disk(
    tmp_path, monkeypatch
):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await node.space.reserve(reservation("a", 8 * MIB))
            (node.stores["disk"].root / "incoming" / "a" / "data" / "f").write_bytes(b"x" * 3 * MIB)
            again = space_module.Space(
                catalog=node.catalog,
                shelf=node.shelf,
                stores=node.stores,
                limits={"disk": 1 << 30},
                quota=None,
            )
            again.load()
            assert again.reserved("disk") == 8 * MIB
            ballast = again.ballast("a")
            assert 0 <= ballast.held <= 5 * MIB, "blocks only for what is still to be written"
            ballast.drop()

            def full(*_):
                raise NoSpace("full")

            monkeypatch.setattr(space_module, "Ballast", full)
            again = space_module.Space(
                catalog=node.catalog,
                shelf=node.shelf,
                stores=node.stores,
                limits={"disk": 1 << 30},
                quota=None,
            )
            again.load()
            assert again.reserved("disk") == 8 * MIB

    asyncio.run(story())


def test_an_estimate_is_reserved_and_the_true_size_is_kept(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "one", {"f": b"x" * 100, "g": b""})
            row = node.shelf.contents[(view.content, "disk")]
            assert row.physical == capacity.physical(node.stores["disk"].manifest(view.content))
            assert node.space.reserved("disk") == 0

    asyncio.run(story())

"""What a node does by itself: renew, reclaim, take away, forget; and what it never does."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest
from cached.errors import Busy, NoSpace
from cached.node import fetch, memory, read, retire, revise, seeding, status, sweep, usage
from cached.node.node import Trouble
from cached.sets.names import parse_ref
from tests.node.fakes import DAY, caller, create_set, until, world

ALICE = caller("alice")
NR = parse_ref("nr")
MIB = 1 << 20


def files(size, letter=b"x"):
    return {"f": letter * size}


def pin(node, ref, who=ALICE):
    set_ref = parse_ref(ref)
    found = read.open_now(node, who, set_ref, set_ref.path or "f")
    os.close(found.fd)
    return found.pin


def test_grants_are_renewed_at_half_their_life_while_the_sets_lease_lasts(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            b = await w.node("b", max_lease=1000)
            view = await create_set(a, ALICE, "nr", files(10), lease_seconds=3000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            assert b.left(b.shelf.replicas[view.id].grant) == 1000
            w.clock.pass_(400)
            await sweep.renew(b)
            assert b.left(b.shelf.replicas[view.id].grant) == 600
            w.clock.pass_(200)
            await sweep.renew(b)
            assert b.left(b.shelf.replicas[view.id].grant) == 1000
            w.clock.pass_(2000)
            await sweep.renew(b)
            assert b.left(b.shelf.replicas[view.id].grant) == 400, "no longer than the owner wants the set"
            w.clock.pass_(500)
            await sweep.renew(b)
            assert b.left(b.shelf.replicas[view.id].grant) == 0

    asyncio.run(story())


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_withdrawn_or_deleted_set_is_not_renewed(tmp_path, everywhere):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b", max_lease=1000)
            view = await create_set(a, ALICE, "nr", files(10), lease_seconds=3000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await revise.delete(a, ALICE, NR, everywhere, False)
            await w.gossip()
            w.clock.pass_(900)
            await sweep.renew(b)
            row = b.shelf.replicas.get(view.id)
            assert row is None or row.state == "GOING" or b.left(row.grant) == 100

    asyncio.run(story())


def test_a_renewal_never_shortens_an_extension_of_the_same_moment(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", files(10), lease_seconds=1000)
            w.clock.pass_(600)
            await asyncio.gather(
                revise.extend(node, ALICE, NR, 5 * DAY, False), sweep.renew(node), sweep.renew(node)
            )
            assert node.left(node.shelf.replicas[view.id].grant) == 5 * DAY

    asyncio.run(story())


def test_only_what_is_expired_and_unread_makes_room_and_only_when_space_is_wanted(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=20 * MIB)
            old = await create_set(node, ALICE, "old", files(4 * MIB, b"1"), lease_seconds=10)
            read_on = await create_set(node, ALICE, "read", files(4 * MIB, b"2"), lease_seconds=10)
            leased = await create_set(node, ALICE, "leased", files(4 * MIB, b"3"), lease_seconds=9000)
            reader = pin(node, "read/f")
            w.clock.pass_(20)
            await sweep.once(node)
            assert set(node.shelf.replicas) == {old.id, read_on.id, leased.id}, "nobody wants the space yet"
            assert pin(node, "old/f")
            for each in list(node.pins._counted):
                if each.set_id == old.id:
                    read.release(node, each)
            await create_set(node, ALICE, "new", files(9 * MIB, b"4"))
            assert old.id not in node.shelf.replicas
            assert {read_on.id, leased.id} <= set(node.shelf.replicas)
            with pytest.raises(NoSpace):
                await create_set(node, ALICE, "more", files(4 * MIB, b"5"))
            assert {read_on.id, leased.id} <= set(node.shelf.replicas)
            read.release(node, reader)
            await create_set(node, ALICE, "more", files(MIB, b"5"))
            assert leased.id in node.shelf.replicas

    asyncio.run(story())


def test_a_replica_extended_while_room_is_made_is_spared(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=20 * MIB)
            view = await create_set(node, ALICE, "nr", files(10 * MIB), lease_seconds=10)
            w.clock.pass_(20)
            extension, room = await asyncio.gather(
                revise.extend(node, ALICE, NR, 5000, False),
                sweep.make_room(node, "disk", 12 * MIB),
                return_exceptions=True,
            )
            assert room is None
            row = node.shelf.replicas.get(view.id)
            if isinstance(extension, BaseException):
                assert row is None or row.state == "GOING", "refused, so nothing was promised"
            else:
                assert row is not None
                assert row.state == "COMMITTED"
                assert node.left(row.grant) == 5000

    asyncio.run(story())


def test_a_grant_that_changed_since_it_was_looked_at_is_kept(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", files(10), lease_seconds=10)
            seen = node.shelf.replicas[view.id].grant
            await revise.extend(node, ALICE, NR, 500, False)
            with pytest.raises(Busy):
                await retire.give_up(node, view.id, expired=seen)
            assert node.shelf.replicas[view.id].state == "COMMITTED"

    asyncio.run(story())


def test_the_memory_tier_makes_room_by_its_copies_alone(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True, memory_capacity=16 * MIB)
            view = await create_set(node, ALICE, "nr", files(9 * MIB), tier="memory", lease_seconds=10)
            w.clock.pass_(20)
            await create_set(node, ALICE, "new", files(9 * MIB, b"y"), tier="memory")
            assert (view.content, "memory") not in node.shelf.contents
            assert node.shelf.replicas[view.id].state == "COMMITTED"
            read.release(node, pin(node, "nr/f"))

    asyncio.run(story())


def test_readers_of_a_memory_copy_keep_it_and_a_new_one_is_found_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            view = await create_set(node, ALICE, "nr", {"f": b"1", "g": b"2"}, tier="memory")
            found = read.open_now(node, ALICE, NR, "")
            await revise.update(node, ALICE, NR, {"tier": "disk"})
            await sweep.once(node)
            fd = os.open("g", os.O_RDONLY, dir_fd=found.fd)
            assert os.read(fd, 1) == b"2"
            os.close(fd)
            os.close(found.fd)
            read.release(node, found.pin)
            await sweep.once(node)
            await until(lambda: (view.content, "memory") not in node.shelf.contents)
            assert node.stores["memory"].list_contents() == []
            read.release(node, pin(node, "nr/f"))
            await revise.update(node, ALICE, NR, {"tier": "memory"})
            assert (view.content, "memory") in node.shelf.contents
            read.release(node, pin(node, "nr/f"))

    asyncio.run(story())


def test_what_an_interrupted_deletion_left_is_taken_away_by_the_sweep(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", files(10))

            def broken(_content):
                raise NoSpace("the trash cannot be made")

            with monkeypatch.context() as patched:
                patched.setattr(node.stores["disk"], "retire", broken)
                await retire.give_up(node, view.id)
                await until(lambda: "background_failed" in node.counters.snapshot())
            assert node.shelf.replicas[view.id].state == "GOING"
            await sweep.once(node)
            await until(lambda: view.id not in node.shelf.replicas)
            assert node.shelf.contents == {}

    asyncio.run(story())


def test_records_are_forgotten_long_after_they_are_over(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            live = await create_set(a, ALICE, "nr", files(10), lease_seconds=100, replicas=0)
            gone = await create_set(a, ALICE, "gone", files(20), lease_seconds=100, replicas=0)
            await revise.delete(a, ALICE, parse_ref("gone"), True, False)
            await until(lambda: gone.id not in a.shelf.replicas)
            await w.gossip()
            w.clock.pass_(29 * DAY)
            await sweep.forget(b)
            assert set(b.shelf.known) == {live.id, gone.id}
            w.clock.pass_(2 * DAY)
            await sweep.forget(b)
            assert set(b.shelf.known) == {gone.id}, "a tombstone outlives every lease"
            w.clock.pass_(30 * DAY)
            await sweep.forget(b)
            assert b.shelf.known == {}
            assert w.books["b"].known() == {}
            await sweep.forget(a)
            assert set(a.shelf.known) == {live.id}, "what is held is known"

    asyncio.run(story())


def test_memory_copies_are_made_again_after_a_boot(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            view = await create_set(node, ALICE, "nr", files(100), tier="memory")
            await w.crash("a")
            shutil.rmtree(tmp_path / "a" / "memory" / "contents")
            w.clock.boot_id = "00000000-0000-0000-0000-000000000002"
            node = await w.node("a", memory=True)
            assert (view.content, "memory") not in node.shelf.contents
            read.release(node, pin(node, "nr/f"))
            await memory.restore(node)
            assert node.stores["memory"].has(view.content)

    asyncio.run(story())


def test_what_nobody_asks_for_leaves_its_swarm_and_its_pack_is_counted_until_then(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=50 * MIB)
            node.swarm.seeded = {"c" * 64: 10, "d" * 64: 10}
            await seeding.rest(node, 0.0)
            node.swarm.seeded["d" * 64] = 20
            await seeding.rest(node, seeding.IDLE)
            assert node.swarm.unseeded == []
            await seeding.rest(node, seeding.IDLE + 1)
            assert node.swarm.unseeded == ["c" * 64]
            await seeding.rest(node, seeding.IDLE + 2)
            assert list(node.seeds) == ["d" * 64]
            free = node.space.free("disk")
            pack = tmp_path / "a" / "disk" / "packs" / f"{'c' * 64}.pack"
            pack.parent.mkdir()
            pack.write_bytes(b"x" * MIB)
            await sweep.once(node)
            assert free - node.space.free("disk") >= MIB
            pack.unlink()
            await sweep.once(node)
            assert node.space.free("disk") == free

    asyncio.run(story())


# What others are told


def test_status_names_no_set_to_those_who_may_not_know_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "secret-name", files(100_000))  # more than an offer encloses
            await w.gossip()
            go = asyncio.Event()

            async def hold(_node, what):
                if what == "content":
                    await go.wait()

            b.link.before = hold
            fetching = asyncio.create_task(fetch.fetch(b, ALICE, parse_ref("secret-name"), None))
            await until(lambda: view.id in b.transfers)
            b.troubles.append(Trouble("its directory is missing", (view.id,)))
            for who, sees in ((ALICE, True), (caller("mallory"), False), (caller("root", admin=True), True)):
                said = await status.status(b, who)
                assert ("secret-name" in str(said)) is sees
                assert (view.id in str(said["transfers"])) is sees
                assert any("its directory is missing" in line for line in said["health"])
                used = await usage.usage(b, who)
                assert ("alice" in str(used)) is sees
            go.set()
            await fetching

    asyncio.run(story())

"""Create: a committed set under a lease, or nothing at all."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from cached import faults, wire
from cached.errors import (
    Busy,
    CachedError,
    LeaseRefused,
    NameTaken,
    NoSpace,
    NotFound,
    SourceChanged,
    UsageError,
)
from cached.node import announce, create, read, revise
from cached.sets.names import parse_ref
from tests.node.fakes import NOTHING, caller, create_set, hand_over, left_behind, until, world

ALICE = caller("alice")
FILES = {"f": b"some bytes", "dir/g": b"more", "empty": b""}


def opened(node, who, ref):
    set_ref = parse_ref(ref)
    found = read.open_now(node, who, set_ref, set_ref.path or "")
    with os.fdopen(found.fd, "rb") as file:
        return found, file.read()


def test_a_created_set_is_readable_leased_and_announced(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, lease_seconds=500, min_lease_seconds=1)
            assert (view.state, view.files, view.bytes, view.owner) == ("COMMITTED", 3, 14, "alice")
            assert view.lease is not None
            assert view.lease.seconds_left == 500
            assert opened(node, ALICE, "nr/dir/g")[1] == b"more"
            assert node.directory.announced == [view.id]
            assert [one.set_id for one in node.directory.published.replicas] == [view.id]
            left = left_behind(node)
            assert (left["incoming"], left["reservations"], left["reserved"]) == ([], [], 0)
            assert [one.record().id for one in node.stores["disk"].get_records(view.content)] == [view.id]

    asyncio.run(story())


def test_what_is_refused_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=4 << 20, max_lease=1000)
            cases = [
                ("nr", {"lease_seconds": 0}, 1, LeaseRefused),
                ("nr", {"lease_seconds": 5000, "min_lease_seconds": 2000}, 1, LeaseRefused),
                ("nr", {}, 1 << 30, NoSpace),
                ("../nr", {}, 1, UsageError),
                ("nr", {}, -1, UsageError),
                ("nr", {"share": "everybody"}, 1, UsageError),
            ]
            for name, options, size, error in cases:
                with pytest.raises(error):
                    await create.begin(node, ALICE, name, wire.CreateOptions(**options), size, 1)
            node.draining = True
            with pytest.raises(Busy):
                await create.begin(node, ALICE, "nr", wire.CreateOptions(), 1, 1)
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_a_lease_longer_than_the_node_grants_is_shortened(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", max_lease=1000)
            creation = await create.begin(node, ALICE, "nr", wire.CreateOptions(lease_seconds=5000), 1, 1)
            assert (creation.grant.seconds, creation.grant.shortened) == (1000, True)
            assert creation.grant.reason
            await creation.abort()
            await creation.abort()
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_the_least_lease_holds_for_a_set_that_is_there_already(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", max_lease=5000)
            first = await create_set(node, ALICE, "nr", FILES, lease_seconds=100)
            shorter = await create_set(node, ALICE, "nr", FILES, lease_seconds=500, min_lease_seconds=50)
            assert shorter.lease is not None
            assert shorter.lease.seconds_left == 100
            longer = await create_set(node, ALICE, "nr", FILES, lease_seconds=1000, min_lease_seconds=400)
            assert longer.lease is not None
            assert (longer.id, longer.lease.seconds_left) == (first.id, 1000)
            assert node.left(node.shelf.replicas[first.id].grant) == pytest.approx(1000, abs=1)
            with pytest.raises(LeaseRefused):
                await create_set(node, ALICE, "nr", FILES, lease_seconds=9000, min_lease_seconds=6000)

    asyncio.run(story())


@pytest.mark.parametrize("step", ["create.reserved", "create.copied", "create.sealed", "create.published"])
def test_a_fault_before_the_commit_leaves_nothing(tmp_path, step):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            faults.arm(f"{step}:error")
            try:
                with pytest.raises(OSError, match=r"fault|Input"):
                    await create_set(node, ALICE, "nr", FILES)
            finally:
                faults.arm("")
            assert left_behind(node) == NOTHING
            await create_set(node, ALICE, "nr", FILES)

    asyncio.run(story())


def test_what_was_published_and_could_not_be_committed_is_taken_back(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            keep = node.shelf.keep

            async def full(_changes):
                raise NoSpace("the database's disk is full")

            creation = await hand_over(node, ALICE, "nr", FILES)
            monkeypatch.setattr(node.shelf, "keep", full)
            with pytest.raises(NoSpace):
                await creation.seal()
            monkeypatch.setattr(node.shelf, "keep", keep)
            assert left_behind(node) == NOTHING
            with pytest.raises(NotFound):
                read.open_now(node, ALICE, parse_ref("nr"), "f")

    asyncio.run(story())


def test_bytes_that_another_set_holds_stay_when_a_commit_fails(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "first", FILES)
            creation = await hand_over(node, ALICE, "second", FILES)

            async def full(_changes):
                raise NoSpace("full")

            with monkeypatch.context() as patched:
                patched.setattr(node.shelf, "keep", full)
                with pytest.raises(NoSpace):
                    await creation.seal()
            assert opened(node, ALICE, "first/f")[1] == FILES["f"]

    asyncio.run(story())


def test_the_same_again_is_a_success_that_changes_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            one = await create_set(node, ALICE, "nr", FILES)
            two = await create_set(node, ALICE, "nr", FILES)
            assert (one.id, one.revision) == (two.id, two.revision)
            for files, options in (({"f": b"other"}, {}), (FILES, {"share": "public"})):
                with pytest.raises(NameTaken):
                    await create_set(node, ALICE, "nr", files, **options)
            bobs = await create_set(node, caller("bob"), "nr", FILES)
            assert bobs.id != one.id
            assert left_behind(node)["reserved"] == 0

    asyncio.run(story())


def test_the_same_again_after_an_update_is_a_success(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            one = await create_set(node, ALICE, "nr", FILES)
            changes = {"share": "public", "replicas": 2, "methods": ["direct"], "requirements": "true"}
            await revise.update(node, ALICE, parse_ref("nr"), changes)
            two = await create_set(node, ALICE, "nr", FILES)
            assert (two.id, two.share, two.replicas_wanted) == (one.id, "public", 2)
            with pytest.raises(NameTaken):
                await create_set(node, ALICE, "nr", FILES, share="private")

    asyncio.run(story())


def test_the_same_again_moves_no_lease_that_still_runs(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            one = await create_set(node, ALICE, "nr", FILES, lease_seconds=100)
            grant, lease = node.shelf.replicas[one.id].grant, node.shelf.known[one.id].lease
            await create_set(node, ALICE, "nr", FILES, lease_seconds=5000)
            assert (node.shelf.replicas[one.id].grant, node.shelf.known[one.id].lease) == (grant, lease)

    asyncio.run(story())


def test_the_same_set_created_on_another_node_becomes_a_replica_there(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            one = await create_set(a, ALICE, "nr", FILES)
            await w.gossip()
            two = await create_set(b, ALICE, "nr", FILES)
            assert two.id == one.id
            assert b.shelf.replicas[one.id].state == "COMMITTED"
            assert two.originator == "a"

    asyncio.run(story())


def test_two_creations_of_one_name_at_once_make_one_set(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            same = [await hand_over(node, ALICE, "nr", FILES) for _ in range(3)]
            views = await asyncio.gather(*(one.seal() for one in same))
            assert len({view.id for view in views}) == 1
            other = [await hand_over(node, ALICE, "x", {"f": bytes([65 + number])}) for number in range(3)]
            results = await asyncio.gather(*(one.seal() for one in other), return_exceptions=True)
            assert sum(isinstance(result, NameTaken) for result in results) == 2
            assert left_behind(node)["reserved"] == 0
            assert len(node.stores["disk"].list_contents()) == 2

    asyncio.run(story())


def test_replace_moves_the_name_withdraws_the_old_and_lets_its_space_go(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=24 << 20)
            old = await create_set(node, ALICE, "nr", {"f": b"1" * (9 << 20)}, lease_seconds=86_400)
            reader, _ = opened(node, ALICE, "nr/f")
            new = await create_set(node, ALICE, "nr", {"f": b"2" * (9 << 20)}, replace=True)
            assert new.id != old.id
            assert opened(node, ALICE, "nr/f")[1][:1] == b"2"
            assert opened(node, ALICE, f"id:{old.id}/f")[1][:1] == b"1", "readable until its space is wanted"
            assert node.shelf.known[old.id].record.status == "withdrawn"
            w.clock.pass_(1)
            for pin in list(node.pins._counted):
                while node.pins.holds(pin.set_id, pin.content, pin.process):
                    read.release(node, pin)
            assert reader.set.id == old.id
            await create_set(node, ALICE, "third", {"f": b"3" * (9 << 20)})
            assert old.id not in node.shelf.replicas
            assert opened(node, ALICE, "nr/f")[1][:1] == b"2", "the new one is leased"

    asyncio.run(story())


def test_an_extension_during_a_repeated_create_is_not_lost(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, lease_seconds=100)
            again = await hand_over(node, ALICE, "nr", FILES, lease_seconds=100)
            await asyncio.gather(again.seal(), revise.extend(node, ALICE, parse_ref("nr"), 9000, False))
            assert node.left(node.shelf.replicas[view.id].grant) == 9000
            assert node.shelf.known[view.id].record.revision == 2
            stored = node.catalog.read_now(lambda tx: (tx.set(view.id), tx.replica(view.id)))
            assert stored[0].revision == 2
            assert stored[1] == node.shelf.replicas[view.id]

    asyncio.run(story())


def test_a_creation_that_is_abandoned_in_the_middle_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            creation = await create.begin(node, ALICE, "nr", wire.CreateOptions(), 64 << 20, 8)
            source = tmp_path / "big"
            source.write_bytes(b"x" * (8 << 20))
            entries = [wire.NewEntry(path=f"f{number}", kind="file", size=8 << 20) for number in range(8)]
            fds = [os.open(source, os.O_RDONLY) for _ in entries]
            task = asyncio.create_task(creation.add(entries, fds))
            await until(lambda: creation.bytes_done > 0)
            task.cancel()
            await asyncio.wait({task})
            # They are closed beside the loop, because that may take long.
            await until(lambda: source not in (Path(f"/proc/self/fd/{fd}").resolve() for fd in fds))
            await creation.abort()
            assert left_behind(node) == NOTHING
            with pytest.raises(Busy):
                await creation.seal()

    asyncio.run(story())


def test_an_abort_during_the_seal_lets_it_come_to_its_end(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            creation = await hand_over(node, ALICE, "nr", FILES)
            seal = asyncio.create_task(creation.seal())
            await asyncio.sleep(0)
            await creation.abort()
            view = await seal
            assert opened(node, ALICE, "nr/f")[1] == FILES["f"]
            assert node.shelf.replicas[view.id].state == "COMMITTED"
            assert left_behind(node)["reserved"] == 0

    asyncio.run(story())


def test_more_files_than_announced_are_refused_and_directories_take_reserved_space(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=32 << 20)
            creation = await create.begin(node, ALICE, "nr", wire.CreateOptions(), 0, 0)
            before = node.space.reserved("disk")
            await creation.add([wire.NewEntry(path=f"d{n}", kind="dir") for n in range(200)], [])
            assert node.space.reserved("disk") > before
            fd = os.open(tmp_path / "a" / "catalog.db", os.O_RDONLY)
            with pytest.raises(SourceChanged, match="'f'"):
                await creation.add([wire.NewEntry(path="f", kind="file", size=1)], [fd])
            await creation.abort()
            creation = await create.begin(node, ALICE, "nr", wire.CreateOptions(), 0, 0)
            many = [wire.NewEntry(path=f"d{number}", kind="dir") for number in range(10_000)]
            with pytest.raises(NoSpace):
                await creation.add(many, [])
            await creation.abort()
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_a_set_for_memory_is_durable_even_when_its_memory_copy_fails(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            view = await create_set(node, ALICE, "fast", FILES, tier="memory")
            assert node.shelf.contents[(view.content, "memory")].state == "STABLE"
            assert [(one.tier, one.reason) for one in view.replicas] == [("memory", "")]
            assert opened(node, ALICE, "fast/f")[1] == FILES["f"]
            assert node.space.reserved("memory") == 0

            def broken(*_args):
                raise CachedError("tmpfs is gone")

            monkeypatch.setattr("cached.node.memory.copy_content", broken)
            view = await create_set(node, ALICE, "slow", {"f": b"disk only"}, tier="memory")
            assert (view.content, "memory") not in node.shelf.contents
            assert [(one.tier, one.reason) for one in view.replicas] == [("disk", announce.NOT_IN_MEMORY)]
            assert opened(node, ALICE, "slow/f")[1] == b"disk only"
            assert node.counters.snapshot()["memory.not_filled"] == 1
            assert node.space.reserved("memory") == 0
            assert node.stores["memory"].list_incoming() == []

    asyncio.run(story())


def test_creating_the_same_again_fits_a_quota_that_is_used_up_and_revives_a_lease_that_is_over(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", quota=14)
            one = await create_set(node, ALICE, "nr", FILES, lease_seconds=100)
            two = await create_set(node, ALICE, "nr", FILES, lease_seconds=100)
            assert (two.id, two.revision) == (one.id, 1)
            w.clock.pass_(200)
            three = await create_set(node, ALICE, "nr", FILES, lease_seconds=300)
            assert (three.id, three.revision) == (one.id, 2)
            assert three.lease.seconds_left == 300
            assert node.left(node.shelf.known[one.id].lease) == 300

    asyncio.run(story())

"""Start after a crash: what never spoke is removed, what was promised is finished, fetched again, or adopted."""

from __future__ import annotations

import asyncio
import os
import shutil
import time

import msgspec
import pytest
from cached.catalog.rows import ContentRow, ReservationRow
from cached.errors import NoSpace, NotFound
from cached.node import damage, fetch, read, receive, recover, revise, verify
from cached.sets.names import parse_ref
from tests.node.fakes import NOTHING, caller, create_set, hand_over, left_behind, until, world

ALICE = caller("alice")
NR = parse_ref("nr")
FILES = {"f": b"bytes" * 1000, "dir/g": b"more"}


def bytes_of(node, ref, who=ALICE):
    set_ref = parse_ref(ref)
    found = read.open_now(node, who, set_ref, set_ref.path)
    with os.fdopen(found.fd, "rb") as file:
        data = file.read()
    read.release(node, found.pin)
    return data


async def restarted(w, name="a", **config):
    await w.crash(name)
    return await w.node(name, **config)


def test_a_creation_cut_short_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await hand_over(node, ALICE, "nr", FILES)
            assert left_behind(node) != NOTHING
            node = await restarted(w)
            await recover.afterwards(node, w.findings)
            assert left_behind(node) == NOTHING
            assert node.stores["disk"].list_trash() == []

    asyncio.run(story())


def test_a_content_published_but_never_committed_is_removed(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            creation = await hand_over(node, ALICE, "nr", FILES)
            other = await create_set(node, ALICE, "other", {"x": b"y"})
            signed = node.shelf.known[other.id].signed
            manifest, content = creation._ingest.seal()
            assert manifest.file_count == 2
            await node.space.name(creation.txid, content)
            creation._ingest.staging.put_record(signed)
            node.stores["disk"].publish(creation.txid, content)
            node = await restarted(w)
            await recover.afterwards(node, w.findings)
            assert node.stores["disk"].list_contents() == [other.content]
            assert left_behind(node)["reservations"] == []

    asyncio.run(story())


def test_a_deletion_cut_short_is_finished(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            row = node.shelf.replicas[view.id]
            content = node.shelf.contents[(view.content, "disk")]

            def going(tx):
                tx.put_replica(msgspec.structs.replace(row, state="GOING"))
                tx.put_content(msgspec.structs.replace(content, state="GOING"))

            await node.catalog.write(going)
            node = await restarted(w)
            await recover.afterwards(node, w.findings)
            assert left_behind(node) == NOTHING
            assert node.stores["disk"].list_trash() == []

    asyncio.run(story())


def test_a_lost_database_loses_no_bytes_and_no_owner(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, share="group:lab", lease_seconds=100)
            await w.crash("a")
            for path in (tmp_path / "a").glob("catalog.db*"):
                path.unlink()
            node = await w.node("a")
            with pytest.raises(NotFound):
                read.open_now(node, ALICE, NR, "f")
            await recover.afterwards(node, w.findings)
            known = node.shelf.known[view.id]
            assert (known.record.owner, known.record.share, known.local) == ("alice", "group:lab", True)
            assert bytes_of(node, "nr/f") == FILES["f"]
            assert bytes_of(node, "nr/f", caller("bob", "lab")) == FILES["f"]
            with pytest.raises(NotFound):
                bytes_of(node, "nr/f", caller("mallory"))
            assert node.left(node.shelf.replicas[view.id].grant) == recover.STARTER
            node = await restarted(w)
            assert w.findings.adopt == []
            assert bytes_of(node, "nr/f") == FILES["f"]

    asyncio.run(story())


def test_a_deleted_set_is_not_adopted_and_damage_keeps_nothing_else_from_being_adopted(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            gone = await create_set(a, ALICE, "gone", {"f": b"gone"})
            bad = await create_set(a, ALICE, "bad", {"f": b"damaged"})
            good = await create_set(a, ALICE, "good", FILES)
            await w.gossip()
            w.down.add("a")
            await revise.delete(b, ALICE, parse_ref("gone"), True, False)
            w.down.clear()
            await w.crash("a")
            for path in (tmp_path / "a").glob("catalog.db*"):
                path.unlink()
            place = tmp_path / "a" / "disk" / "contents" / bad.content / "data" / "f"
            place.chmod(0o644)
            place.write_bytes(b"DAMAGED")
            a = await w.node("a")
            await w.gossip()
            await recover.afterwards(a, w.findings)
            assert set(a.shelf.replicas) == {good.id}
            assert bytes_of(a, "good/f") == FILES["f"]
            assert gone.id not in a.shelf.replicas
            assert [trouble.words for trouble in a.troubles if bad.content[:12] in trouble.words]

    asyncio.run(story())


def test_bytes_that_are_gone_are_fetched_again_under_the_old_grant(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, lease_seconds=5000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await w.crash("b")
            shutil.rmtree(tmp_path / "b" / "disk" / "contents" / view.content)
            b = await w.node("b")
            await w.gossip()
            await recover.afterwards(b, w.findings)
            assert b.shelf.replicas[view.id].state in ("TRANSFERRING", "COMMITTED")
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")
            assert bytes_of(b, "nr/f") == FILES["f"]
            assert b.left(b.shelf.replicas[view.id].grant) == 5000
            assert b.troubles[0].sets == (view.id,)

    asyncio.run(story())


def test_what_nobody_can_give_is_owed_until_somebody_can_or_the_grant_ends(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr(receive, "ROUNDS", 1)
        monkeypatch.setattr(receive, "PAUSE", 0.0)
        monkeypatch.setattr("cached.node.metadata.ROUNDS", 1)
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, lease_seconds=5000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            await w.crash("b")
            shutil.rmtree(tmp_path / "b" / "disk" / "contents" / view.content)
            w.down.add("a")
            b = await w.node("b")
            await w.books["b"].take([], a.id)
            await recover.afterwards(b, w.findings)
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "TRANSFERRING", "the promise stands"
            receive.retry(b)
            assert view.id not in b.transfers, "not at once again"
            w.down.clear()

            def committed():  # one try of many may come to nothing on a busy machine
                if view.id not in b.transfers:
                    b.rejections.welcome(view.id)
                    receive.retry(b)
                return b.shelf.replicas[view.id].state == "COMMITTED"

            await until(committed)
            assert bytes_of(b, "nr/f") == FILES["f"]
            await until(lambda: not b.owed)

    asyncio.run(story())


def test_damaged_files_are_replaced_one_by_one_and_the_last_copy_is_never_thrown_away(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            for name in "ab":
                await w.crash(name)
                place = tmp_path / name / "disk" / "contents" / view.content / "data" / "f"
                place.chmod(0o644)
                place.write_bytes(b"short")
            w.clock.boot_id = "00000000-0000-0000-0000-000000000002"
            a = await w.node("a")
            broken = w.findings
            await recover.afterwards(a, broken)
            assert bytes_of(a, "nr/dir/g") == b"more", "nobody can help: what is whole is served"
            assert a.shelf.replicas[view.id].state == "COMMITTED"
            assert [trouble.sets for trouble in damage.troubles(a)] == [(view.id,)]
            whole = a.stores["disk"].data(view.content) / "f"
            whole.chmod(0o644)
            whole.write_bytes(FILES["f"])
            assert (await verify.verify(a, ALICE, NR, False, None)).damaged[0].reason.startswith("mode")
            b = await w.node("b")
            await w.gossip()
            await recover.afterwards(b, w.findings)
            assert bytes_of(b, "nr/f") == FILES["f"]
            assert damage.troubles(b) == b.troubles == []

    asyncio.run(story())


def test_after_a_boot_contents_are_verified_and_after_a_restart_they_are_not(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            node = await restarted(w)
            assert w.findings.verify == []
            w.clock.boot_id = "00000000-0000-0000-0000-000000000002"
            node = await restarted(w)
            assert [content for _, content in w.findings.verify] == [view.content]
            await recover.afterwards(node, w.findings)
            assert node.shelf.replicas[view.id].verified_boot == w.clock.boot_id
            assert node.troubles == []
            node = await restarted(w)
            assert w.findings.verify == []

    asyncio.run(story())


def test_a_memory_tier_that_is_switched_off_takes_nothing_along(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", memory=True)
            view = await create_set(node, ALICE, "nr", FILES, tier="memory")
            await node.space.reserve(
                ReservationRow(txid="m", purpose="memory", tier="memory", bytes=1000, owner="alice")
            )
            node = await restarted(w)
            assert (view.content, "memory") not in node.shelf.contents
            assert node.catalog.read_now(lambda tx: tx.reservations()) == []
            assert bytes_of(node, "nr/f") == FILES["f"]
            await revise.delete(node, ALICE, NR, True, False)
            await until(lambda: view.id not in node.shelf.replicas)
            assert node.stores["disk"].list_contents() == []

    asyncio.run(story())


def test_a_coming_content_without_a_transfer_is_forgotten(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            row = ContentRow(content="c" * 64, tier="disk", bytes=1, physical=1, state="COMING")
            await node.catalog.write(lambda tx: tx.put_content(row))
            node = await restarted(w)
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_failing_to_empty_the_trash_keeps_nothing_else_from_being_done(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            creation = await hand_over(node, ALICE, "half", {"f": b"half"})
            assert creation.txid
            w.clock.boot_id = "00000000-0000-0000-0000-000000000002"
            node = await restarted(w)
            assert w.findings.trash

            def broken(_path):
                raise NotFound("the trash is gone")

            monkeypatch.setattr(node.stores["disk"], "empty", broken)
            await recover.afterwards(node, w.findings)
            assert node.shelf.replicas[view.id].verified_boot == w.clock.boot_id
            assert node.counters.snapshot()["recover.failed"] == 1

    asyncio.run(story())


def test_a_try_begun_the_moment_another_ended_is_made(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr(receive, "ROUNDS", 1)
        monkeypatch.setattr(receive, "PAUSE", 0.0)
        monkeypatch.setattr("cached.node.metadata.ROUNDS", 1)
        monkeypatch.setattr("cached.node.flight.Flight.close", lambda _: time.sleep(0.2))
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, lease_seconds=5000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            w.down.add("a")
            shutil.rmtree(tmp_path / "b" / "disk" / "contents" / view.content)
            await receive.refetch(b, b.shelf.replicas[view.id])
            flight = b.transfers[view.id]
            await flight.ended.wait()
            assert flight.error is not None
            w.down.clear()
            again = receive.start(b, view.id)
            assert again is not flight
            await until(again.ended.is_set, 30)

    asyncio.run(story())


def test_another_try_that_cannot_be_written_down_sets_no_space_aside(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            before = left_behind(node)
            monkeypatch.setattr("cached.node.space.FEW", 0)  # there is a staging area by then

            async def full(_changes):
                raise NoSpace("the database's disk is full")

            monkeypatch.setattr(node.shelf, "keep", full)
            with pytest.raises(NoSpace):
                await receive.refetch(node, node.shelf.replicas[view.id])
            assert left_behind(node) == before

    asyncio.run(story())


def test_another_try_that_is_cancelled_while_it_is_written_down_is_whole(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            keep, begun = node.shelf.keep, asyncio.Event()

            async def slow(changes):
                begun.set()
                await asyncio.sleep(0.05)
                await keep(changes)

            monkeypatch.setattr(node.shelf, "keep", slow)
            work = asyncio.ensure_future(receive.refetch(node, node.shelf.replicas[view.id]))
            await begun.wait()
            work.cancel()
            await asyncio.wait({work})
            assert work.cancelled()
            (transfer,) = node.catalog.read_now(lambda tx: tx.transfers())
            (reservation,) = node.catalog.read_now(lambda tx: tx.reservations())
            assert transfer.txid == reservation.txid == node.accepted[view.id]
            assert view.id in node.transfers

    asyncio.run(story())

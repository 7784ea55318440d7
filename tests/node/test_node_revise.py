"""Update, extend, delete: what each of them changes, here and on the other holders."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import Forbidden, LeaseRefused, NoSpace, NotFound, UsageError
from cached.leases.pin import Process
from cached.node import drive, fetch, offer, read, receive, retire, revise
from cached.sets.names import parse_ref
from tests.node.fakes import DAY, caller, create_set, until, world

ALICE, MALLORY = caller("alice"), caller("mallory")
NR = parse_ref("nr")
FILES = {"f": b"bytes", "g": b"x" * 100_000}


async def shared_set(w, *names, **options):
    """A set on the first of these nodes, replicated to the others."""
    nodes = [await w.node(name) for name in names]
    view = await create_set(nodes[0], ALICE, "nr", FILES, **options)
    await w.gossip()
    for node in nodes[1:]:
        await fetch.fetch(node, ALICE, NR, None)
    await w.gossip()
    return (*nodes, view)


def test_strangers_may_do_nothing_and_learn_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            for ref in (NR, parse_ref("alice:nr"), parse_ref(f"id:{view.id}")):
                for work in (
                    revise.update(node, MALLORY, ref, {"share": "public"}),
                    revise.extend(node, MALLORY, ref, 10, False),
                    revise.delete(node, MALLORY, ref, True, False),
                    read.show(node, MALLORY, ref),
                    read.files(node, MALLORY, ref),
                    fetch.fetch(node, MALLORY, ref, None),
                ):
                    with pytest.raises(NotFound):
                        await work
                with pytest.raises(NotFound):
                    read.open_now(node, MALLORY, ref, "f")
            assert await read.list_sets(node, MALLORY, False) == []
            await revise.update(node, ALICE, NR, {"share": "public"})
            with pytest.raises(Forbidden):
                await revise.delete(node, MALLORY, parse_ref("nr"), False, False)
            assert node.shelf.known[view.id].record.revision == 2

    asyncio.run(story())


def test_sharing_that_is_taken_back_is_felt_at_the_next_open(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "nr", FILES, share="public")
            for _ in range(3):
                for _ in range(3):
                    opened = read.open_now(node, MALLORY, NR, "f")
                    os.close(opened.fd)
                    read.release(node, opened.pin)
                await revise.update(node, ALICE, NR, {"share": "private"})
                with pytest.raises(NotFound):
                    read.open_now(node, MALLORY, NR, "f")
                await revise.update(node, ALICE, NR, {"share": "public"})

    asyncio.run(story())


def test_ones_own_set_of_a_name_comes_before_a_shared_one_from_the_next_open_on(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, MALLORY, "nr", {"f": b"hers"}, share="public")

            def owner():
                opened = read.open_now(node, ALICE, NR, "f")
                os.close(opened.fd)
                read.release(node, opened.pin)
                return opened.set.owner

            assert [owner(), owner()] == ["mallory", "mallory"]
            await create_set(node, ALICE, "nr", FILES)
            assert [owner(), owner()] == ["alice", "alice"]
            await revise.delete(node, ALICE, NR, True, False)
            assert [owner(), owner()] == ["mallory", "mallory"]

    asyncio.run(story())


def test_an_update_changes_what_it_names_and_nothing_else(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            before = await create_set(node, ALICE, "nr", FILES, lease_seconds=1000)
            view = await revise.update(node, ALICE, NR, {"share": "group:lab", "replicas": 2})
            assert (view.share, view.replicas_wanted, view.revision) == ("group:lab", 2, 2)
            assert (view.content, view.requirements, view.methods) == (before.content, "", before.methods)
            assert node.left(node.shelf.known[view.id].lease) == 1000
            for changes in ({}, {"owner": "mallory"}, {"replicas": -5}, {"share": "x"}):
                with pytest.raises(UsageError):
                    await revise.update(node, ALICE, NR, changes)
            assert node.shelf.known[view.id].record.revision == 2
            record = await until(
                lambda: [r for r in node.stores["disk"].get_records(view.content) if r.record().revision == 2]
            )
            assert record[0].record().share == "group:lab"

    asyncio.run(story())


def test_a_lease_is_extended_from_now_and_never_shortened(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", max_lease=10 * DAY)
            view = await create_set(node, ALICE, "nr", FILES, lease_seconds=1000, min_lease_seconds=900)
            w.clock.pass_(500)
            reply = await revise.extend(node, ALICE, NR, 2000, False)
            assert (reply.grants[0].granted, reply.grants[0].seconds) == (True, 2000)
            reply = await revise.extend(node, ALICE, NR, 60, False)
            assert reply.grants[0].granted
            assert reply.grants[0].seconds == 2000
            assert node.left(node.shelf.known[view.id].lease) == 2000
            reply = await revise.extend(node, ALICE, NR, 99 * DAY, False)
            assert (reply.grants[0].seconds, reply.grants[0].shortened) == (10 * DAY, True)
            with pytest.raises(UsageError):
                await revise.extend(node, ALICE, NR, 0, False)

    asyncio.run(story())


def test_an_extension_by_less_than_the_least_lease_at_creation_is_granted(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, lease_seconds=1000, min_lease_seconds=900)
            w.clock.pass_(950)
            reply = await revise.extend(node, ALICE, NR, 300, False)
            assert (reply.grants[0].granted, reply.grants[0].seconds) == (True, 300)
            assert node.left(node.shelf.replicas[view.id].grant) == 300

    asyncio.run(story())


def test_an_expired_replica_is_revived_and_one_that_goes_is_not(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, lease_seconds=10)
            w.clock.pass_(20)
            assert (await read.show(node, ALICE, NR)).replicas[0].state == "EXPIRED"
            reply = await revise.extend(node, ALICE, NR, 1000, False)
            assert reply.grants[0].granted
            found = read.open_now(node, ALICE, NR, "f")
            os.close(found.fd)
            await retire.give_up(node, view.id)
            with pytest.raises(LeaseRefused):
                await revise.extend(node, ALICE, NR, 2000, False)
            reply = await revise.extend(node, ALICE, NR, 2000, True)
            assert not reply.grants[0].granted
            read.release(node, found.pin)

    asyncio.run(story())


def test_each_holder_decides_for_itself_about_an_extension(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            b = await w.node("b", max_lease=5000)
            view = await create_set(a, ALICE, "nr", FILES, lease_seconds=1000)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            reply = await revise.extend(a, ALICE, NR, 9000, True)
            grants = {grant.node: (grant.granted, grant.seconds, grant.shortened) for grant in reply.grants}
            assert grants == {"a": (True, 9000, False), "b": (True, 5000, True)}
            assert b.left(b.shelf.replicas[view.id].grant) == 5000
            w.down.add("b")
            reply = await revise.extend(a, ALICE, NR, 9500, True)
            assert [grant.granted for grant in reply.grants] == [True, False]

    asyncio.run(story())


def test_a_peer_cannot_have_a_lease_extended_beyond_what_the_owner_signed(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await shared_set(w, "a", "b", lease_seconds=1000)
            signed = a.shelf.known[view.id].signed
            grant = await revise.serve_extend(b, a.link._peer(), signed, 20 * DAY)
            assert grant.seconds <= 1000

    asyncio.run(story())


def test_plain_delete_withdraws_at_the_originator_and_leaves_the_others_to_their_grants(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await shared_set(w, "a", "b")
            dry = await revise.delete(a, ALICE, NR, False, True)
            assert (dry.state, dry.dry_run, [item.node for item in dry.items]) == ("WITHDRAWN", True, ["a"])
            assert a.shelf.known[view.id].record.status == "live"
            reply = await revise.delete(a, ALICE, NR, False, False)
            assert reply.state == "WITHDRAWN"
            await until(lambda: view.id not in a.shelf.replicas)
            assert a.stores["disk"].list_contents() == []
            await w.gossip()
            assert b.shelf.known[view.id].record.status == "withdrawn"
            found = read.open_now(b, ALICE, NR, "f")
            os.close(found.fd)
            read.release(b, found.pin)
            assert (await read.show(a, ALICE, NR)).state == "WITHDRAWN"
            c = await w.node("c")
            await w.gossip()
            with pytest.raises(NotFound):
                await fetch.fetch(c, ALICE, NR, None)
            assert not drive.drives(b, b.shelf.known[view.id])
            reply = await revise.delete(a, ALICE, NR, True, False)
            await until(lambda: view.id not in b.shelf.replicas)
            assert {item.node: item.action for item in reply.items} == {"b": "deleted"}
            with pytest.raises(NotFound):
                await read.show(a, ALICE, NR)

    asyncio.run(story())


def test_plain_delete_elsewhere_gives_up_that_replica_and_is_not_offered_it_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await shared_set(w, "a", "b")
            reply = await revise.delete(b, ALICE, NR, False, False)
            assert (reply.state, [item.node for item in reply.items]) == ("COMMITTED", ["b"])
            await until(lambda: view.id not in b.shelf.replicas)
            await w.gossip()
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert answer.answer == "REJECTED"
            with pytest.raises(NotFound):
                await revise.delete(b, ALICE, NR, False, False)
            await fetch.fetch(b, ALICE, NR, None)
            assert b.shelf.replicas[view.id].state == "COMMITTED", "a job that asks for it gets it"

    asyncio.run(story())


def test_delete_everywhere_reaches_a_holder_that_was_away_when_it_returns(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await shared_set(w, "a", "b")
            w.down.add("b")
            reply = await revise.delete(a, ALICE, NR, True, False)
            assert {item.node: item.action for item in reply.items} == {"a": "deleted", "b": "pending"}
            w.down.clear()
            await w.gossip()
            await until(lambda: view.id not in b.shelf.replicas and view.id not in a.shelf.replicas)
            for node in (a, b):
                assert node.stores["disk"].list_contents() == []
            view = await create_set(a, ALICE, "nr", {"f": b"the name is free again"})
            assert view.state == "COMMITTED"

    asyncio.run(story())


def test_open_readers_finish_and_their_process_may_open_more_of_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            job = caller("alice", pid=4711)
            view = await create_set(node, ALICE, "nr", FILES)
            first = read.open_now(node, job, NR, "f")
            await revise.delete(node, ALICE, NR, True, False)
            second = read.open_now(node, job, NR, "g")
            by_id = read.open_now(node, job, parse_ref(f"id:{view.id}"), "g")
            for found, data in ((first, b"bytes"), (second, FILES["g"]), (by_id, FILES["g"])):
                with os.fdopen(found.fd, "rb") as file:
                    assert file.read() == data
            with pytest.raises(NotFound):
                read.open_now(node, ALICE, NR, "f")
            assert node.stores["disk"].has(view.content)
            for found in (first, second, by_id):
                read.release(node, found.pin)
            await until(lambda: view.id not in node.shelf.replicas)
            assert not node.stores["disk"].has(view.content)
            assert node.space.free("disk") == node.space.capacity("disk")
            with pytest.raises(NotFound):
                read.open_now(node, job, NR, "f")

    asyncio.run(story())


def test_pinned_bytes_of_a_deleted_set_outlive_the_daemon_too(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            job = caller("alice", pid=4711)
            living = {Process(job.pid, job.start_time)}
            w.alive = living.__contains__
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES)
            fd = read.open_now(node, job, NR, "f").fd
            await revise.delete(node, ALICE, NR, True, False)
            await w.crash("a")
            node = await w.node("a")
            again = read.open_now(node, job, parse_ref(f"id:{view.id}"), "g")
            assert os.pread(again.fd, 5, 0) == b"xxxxx"
            os.close(again.fd)
            os.close(fd)
            read.release(node, again.pin)
            assert node.stores["disk"].has(view.content)
            living.clear()
            node.pins.sweep()
            await until(lambda: view.id not in node.shelf.replicas)
            assert not node.stores["disk"].has(view.content)

    asyncio.run(story())


def test_a_deletion_that_meets_a_transfer_at_its_commit_takes_the_replica_away(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES)
            await w.gossip()
            reached, go = asyncio.Event(), asyncio.Event()
            commit = receive._commit

            async def slow(*of):
                reached.set()
                await go.wait()
                await commit(*of)

            monkeypatch.setattr(receive, "_commit", slow)
            proposed = await offer.make(a, a.shelf.known[view.id])
            a.consents.give(b.id, view.content)
            answer = await offer.consider(b, a.link._peer(), proposed)
            assert answer.answer == "OK"
            await reached.wait()
            deletion = asyncio.create_task(revise.delete(b, ALICE, NR, True, False))
            await asyncio.sleep(0.05)
            go.set()
            await deletion
            await until(lambda: view.id not in b.shelf.replicas)
            assert b.stores["disk"].list_contents() == []
            assert b.stores["disk"].list_incoming() == []
            assert b.space.reserved("disk") == 0

    asyncio.run(story())


def test_an_update_on_a_full_disk_holds_and_its_missing_copy_beside_the_bytes_is_told(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "nr", FILES)

            def full(*_):
                raise NoSpace("the partition is full")

            monkeypatch.setattr(node.stores["disk"], "put_record", full)
            assert (await revise.update(node, ALICE, NR, {"share": "public"})).share == "public"
            await until(lambda: node.counters.snapshot().get("record.not_stored"))
            assert "background_failed" not in node.counters.snapshot()

    asyncio.run(story())

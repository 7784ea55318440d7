"""A set that has files in common with one that its owner holds here already: only what is new travels and takes space."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import CachedError
from cached.leases import capacity
from cached.node import drive, fetch, receive, recover, revise, sweep, verify
from cached.replication import layout
from cached.sets.names import parse_ref
from tests.node.fakes import NOTHING, caller, create_set, left_behind, until, world
from tests.node.sharing_kit import BIG, big, counted, lies_in, one_file, path_of, there

ALICE, BOB = caller("alice"), caller("bob")
OLD, NEW = big("a", "b", "c"), big("b", "c", "d") | {"tiny": b"tiny"}


async def both(w, **config):
    """Two nodes that hold alice's `old`; `new`, which has two of its files, is on the first alone."""
    a, b = await w.node("a"), await w.node("b", **config)
    old = await create_set(a, ALICE, "old", OLD)
    await w.gossip()
    await fetch.fetch(b, ALICE, parse_ref("old"), None)
    new = await create_set(a, ALICE, "new", NEW)
    await w.gossip()
    return a, b, old, new


async def delete(node, name, **options):
    await revise.delete(node, ALICE, parse_ref(name), **({"everywhere": False, "dry_run": False} | options))
    await until(lambda: not [row for row in node.shelf.replicas.values() if row.state == "GOING"])


def test_only_what_is_new_travels_and_what_is_shared_lies_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, old, new = await both(w)
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            assert b.direct.received[new.content] == BIG + len(b"tiny")
            for name in "bc":
                assert one_file(path_of(b, view.id, name) for view in (old, new))
            assert counted(b) == there(b)
            assert (await verify.verify(b, ALICE, parse_ref("new"), False, None)).ok
            assert b.lent == {}

    asyncio.run(story())


def test_what_others_hold_travels_all_the_same(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, *_ = await both(w)
            theirs = await create_set(a, BOB, "new", {**NEW, "more": b"more"})
            await w.gossip()
            await fetch.fetch(b, BOB, parse_ref("new"), None)
            assert b.direct.received[theirs.content] == theirs.bytes
            assert counted(b) == there(b)

    asyncio.run(story())


def test_a_set_needs_no_more_space_than_what_is_new_once_its_manifest_is_known(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            _, b, _, new = await both(w)
            reserved: list[int] = []
            transfer = receive._transfer

            async def watched(node, flight, metadata, holders):
                reserved.append(node.space.reserved("disk"))
                await transfer(node, flight, metadata, holders)

            monkeypatch.setattr(receive, "_transfer", watched)
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            manifest = b.stores["disk"].manifest(new.content)
            alone = capacity.physical(manifest) - 2 * capacity.on_partition(BIG)
            assert reserved == [alone + layout.pack_bytes(manifest)]
            assert b.space.reserved("disk") == 0

    asyncio.run(story())


def test_a_donor_that_is_deleted_while_the_rest_is_coming_goes_once_that_is_here(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            _, b, old, new = await both(w)
            transfer = receive._transfer

            async def meanwhile(node, flight, metadata, holders):
                await revise.delete(node, ALICE, parse_ref("old"), everywhere=False, dry_run=False)
                await asyncio.gather(*[task for key, task in node.flights.items() if key.startswith("reap")])
                assert node.shelf.contents[(old.content, "disk")].state in ("STABLE", "GOING")
                assert node.stores["disk"].has(old.content)
                await transfer(node, flight, metadata, holders)

            monkeypatch.setattr(receive, "_transfer", meanwhile)
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            await sweep.once(b)
            await until(lambda: len(b.shelf.contents) == 1)
            row = b.shelf.contents[(new.content, "disk")]
            assert row.physical == capacity.physical(b.stores["disk"].manifest(new.content)) == there(b)

    asyncio.run(story())


def test_a_transfer_that_fails_leaves_what_it_was_linked_to_as_it_was(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            _, b, old, new = await both(w)

            async def fail(*_):
                raise CachedError("the line is cut")

            monkeypatch.setattr(receive, "_transfer", fail)
            with pytest.raises(CachedError, match="the line is cut"):
                await fetch.fetch(b, ALICE, parse_ref("new"), None)
            await until(lambda: new.id not in b.shelf.replicas)
            assert path_of(b, old.id, "b").stat().st_nlink == 1
            assert b.lent == {}
            assert b.stores["disk"].list_incoming() == []
            assert counted(b) == there(b)

    asyncio.run(story())


def test_a_transfer_that_a_crash_cut_short_links_anew_what_is_there_then(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, old, new = await both(w)
            begun = asyncio.Event()

            async def hang(*_):
                begun.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(receive, "_transfer", hang)
            answer = await drive.offer_to(a, a.shelf.known[new.id], a.directory.node("b"))
            assert answer.answer == "OK"
            await begun.wait()
            assert path_of(b, old.id, "b").stat().st_nlink == 2
            monkeypatch.setattr(receive.prepare, "let_go", _nothing)  # a crash ends no transfer in order
            await w.crash("b")
            monkeypatch.undo()
            b = await w.node("b")
            assert path_of(b, old.id, "b").stat().st_nlink == 1
            await receive.resume_all(b, w.findings.transfers)
            await until(lambda: b.shelf.replicas[new.id].state == "COMMITTED")
            assert b.direct.received[new.content] == BIG + len(b"tiny")
            assert one_file(path_of(b, view.id, "b") for view in (old, new))
            assert counted(b) == there(b)

    asyncio.run(story())


async def _nothing(*_):
    return None


def test_a_crash_between_publishing_and_writing_down_leaves_an_exact_count(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, _, new = await both(w)

            def crash(*_):
                raise asyncio.CancelledError

            monkeypatch.setattr(receive.sharing, "joining", crash)
            monkeypatch.setattr(receive, "_take_back", _nothing)
            await drive.offer_to(a, a.shelf.known[new.id], a.directory.node("b"))
            await until(lambda: b.stores["disk"].has(new.content))
            await w.crash("b")
            monkeypatch.undo()
            b = await w.node("b")
            await receive.resume_all(b, w.findings.transfers)
            await until(lambda: b.shelf.replicas[new.id].state == "COMMITTED")
            await until(lambda: counted(b) == there(b))
            await recover.afterwards(b, w.findings)
            await delete(b, "old")
            assert counted(b) == there(b)

    asyncio.run(story())


def test_files_that_are_linked_are_never_written_to(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, old, new = await both(w)
            before = {name: path_of(b, old.id, name).stat() for name in "bc"}
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            for name, facts in before.items():
                after = os.stat(path_of(b, new.id, name))
                assert (after.st_mtime_ns, after.st_mode) == (facts.st_mtime_ns, facts.st_mode)
            await delete(b, "old")
            await delete(b, "new")
            assert left_behind(b) == NOTHING

    asyncio.run(story())


def test_sets_in_memory_share_with_sets_in_memory(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a", memory=True), await w.node("b", memory=True)
            old = await create_set(a, ALICE, "old", OLD, tier="memory")
            await create_set(a, ALICE, "disk", big("d"))
            await w.gossip()
            for name in ("old", "disk"):
                await fetch.fetch(b, ALICE, parse_ref(name), None)
            new = await create_set(a, ALICE, "new", NEW, tier="memory")
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            store = b.stores["memory"]
            assert one_file(store.data(view.content) / "b" for view in (old, new))
            assert (store.data(new.content) / "d").stat().st_nlink == 1, "nothing is linked across tiers"
            assert sum(row.physical for row in b.shelf.contents.values() if row.tier == "memory") == lies_in(
                store
            )
            await delete(b, "old")
            assert sum(row.physical for row in b.shelf.contents.values() if row.tier == "memory") == lies_in(
                store
            )

    asyncio.run(story())

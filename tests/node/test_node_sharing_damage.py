"""Damage to a file that several sets have strikes all of them, and its repair mends all of them."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import IntegrityFailed
from cached.node import fetch, read, receive, verify
from cached.replication import linked
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world
from tests.node.sharing_kit import BIG, big, counted, one_file, path_of, there

ALICE = caller("alice")
OLD, NEW = big("a", "b"), big("b", "c")


async def shared(w, name="a"):
    node = await w.node(name)
    return node, await create_set(node, ALICE, "old", OLD), await create_set(node, ALICE, "new", NEW)


def rot(path):
    """Change a byte in place, as a failing disk does."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(20_000)
        file.write(b"!")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def bytes_of(node, ref):
    set_ref = parse_ref(ref)
    found = read.open_now(node, ALICE, set_ref, set_ref.path)
    with os.fdopen(found.fd, "rb") as file:
        data = file.read()
    read.release(node, found.pin)
    return data


async def whole(node, name, *, repair=False):
    return (await verify.verify(node, ALICE, parse_ref(name), repair, None)).ok


def test_what_is_found_damaged_in_one_set_is_withheld_in_all(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, old, _ = await shared(w)
            rot(path_of(node, old.id, "b"))
            assert not await whole(node, "old")
            for ref in ("old/b", "new/b"):
                with pytest.raises(IntegrityFailed):
                    bytes_of(node, ref)
            assert bytes_of(node, "new/c") == b"c" * BIG
            await w.crash("a")
            node = await w.node("a")
            with pytest.raises(IntegrityFailed):
                bytes_of(node, "new/b")

    asyncio.run(story())


def test_a_repair_from_another_node_mends_all_sets_that_have_the_file(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, old, new = await shared(w)
            b = await w.node("b")
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("old"), None)
            await w.gossip()
            rot(path_of(a, old.id, "b"))
            assert await whole(a, "old", repair=True)
            assert bytes_of(a, "new/b") == b"b" * BIG
            assert await whole(a, "new")
            assert one_file(path_of(a, view.id, "b") for view in (old, new))
            assert a.shelf.withheld == {}
            assert counted(a) == there(a)

    asyncio.run(story())


def test_a_crash_in_a_repair_leaves_no_directory_writable_in_any_set_that_has_the_file(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, old, new = await shared(w)
            b = await w.node("b")
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("old"), None)
            await w.gossip()
            rot(path_of(a, old.id, "b"))
            assert not await whole(a, "old")
            for view in (old, new):
                path_of(a, view.id, "b").parent.chmod(0o755)  # as a repair does while it works
            await w.crash("a")
            a = await w.node("a")
            for view in (old, new):
                assert path_of(a, view.id, "b").parent.stat().st_mode & 0o777 == 0o555
            await w.gossip()
            assert await whole(a, "old", repair=True)
            assert await whole(a, "new")

    asyncio.run(story())


def test_a_file_that_one_set_has_lost_comes_back_from_the_other_without_any_node(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, old, new = await shared(w)
            path = path_of(node, old.id, "b")
            path.parent.chmod(0o700)
            path.unlink()
            path.write_bytes(b"something else")
            path.chmod(0o444)
            path.parent.chmod(0o555)
            assert await whole(node, "old", repair=True)
            assert one_file(path_of(node, view.id, "b") for view in (old, new))
            assert counted(node) == there(node)

    asyncio.run(story())


def test_creating_the_files_again_mends_all_sets_that_have_them(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node, old, new = await shared(w)
            rot(path_of(node, old.id, "b"))
            await create_set(node, ALICE, "old", OLD)
            assert one_file(path_of(node, view.id, "b") for view in (old, new))
            assert await whole(node, "new")
            assert counted(node) == there(node)

    asyncio.run(story())


def test_a_transfer_that_finds_a_linked_file_damaged_brings_all_and_has_the_donor_read(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, old, new = await shared(w)
            b = await w.node("b")
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("old"), None)
            rot(path_of(b, old.id, "b"))
            transfer = receive._transfer

            async def look(node, flight, metadata, holders):
                if flight.linked.paths:
                    raise linked.damaged("b", flight.content)
                await transfer(node, flight, metadata, holders)

            monkeypatch.setattr(receive, "_transfer", look)
            await fetch.fetch(b, ALICE, parse_ref("new"), None)
            assert b.direct.received[new.content] == 2 * BIG
            assert await whole(b, "new")
            await until(lambda: (old.content, "disk") in b.shelf.withheld)
            assert counted(b) == there(b)
            assert (await verify.verify(a, ALICE, parse_ref("new"), False, None)).ok

    asyncio.run(story())


def test_a_repair_that_was_cut_short_before_the_other_sets_is_finished_by_theirs(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, old, new = await shared(w)
            b = await w.node("b")
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("old"), None)
            await w.gossip()
            rot(path_of(a, old.id, "b"))

            async def crash(*_):
                return None

            monkeypatch.setattr(verify.sharing, "pass_on", crash)
            assert await whole(a, "old", repair=True)
            monkeypatch.undo()
            with pytest.raises(IntegrityFailed):
                bytes_of(a, "new/b")
            assert verify.has_holder(a, new.content)
            assert counted(a) == there(a)
            w.down.add("b")
            assert await whole(a, "new", repair=True)
            assert one_file(path_of(a, view.id, "b") for view in (old, new))
            assert bytes_of(a, "new/b") == b"b" * BIG
            assert counted(a) == there(a)

    asyncio.run(story())

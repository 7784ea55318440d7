"""What an offer of a set that is new to a node leaves there: one promise, written down once, or the record alone."""

from __future__ import annotations

import asyncio

import pytest
from cached.errors import NoSpace
from cached.node import book, drive
from tests.node.fakes import NOTHING, caller, create_set, left_behind, until, world

ALICE = caller("alice")


def _counting(node, monkeypatch) -> list[int]:
    """Return a list that gets how many sets are known at each write from now on."""
    writes: list[int] = []
    write = node.catalog.write

    async def counted(work):
        writes.append(len(node.shelf.known))
        return await write(work)

    monkeypatch.setattr(node.catalog, "write", counted)
    return writes


async def _offered(w, monkeypatch, refused: str = "", *, heard: bool = False):
    a, b = await w.node("a"), await w.node("b")
    view = await create_set(a, ALICE, "nr", {"f": b"x"})
    if heard:  # of an earlier revision
        await book.learn(b, a.shelf.known[view.id].signed)
        await book.keep(a, book.revise(a, a.shelf.known[view.id], replicas=1))
    if refused == "no space":
        monkeypatch.setattr(b.space, "reserve", _none)
    elif refused:
        b.rejections.add_own(view.id, refused)
    writes = _counting(b, monkeypatch)
    return b, view, writes, await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))


async def _none(*_, **__):
    raise NoSpace("there is none")


@pytest.mark.parametrize("heard", [False, True])
def test_what_is_new_of_a_set_and_the_promise_to_keep_it_are_written_down_together(
    tmp_path, monkeypatch, heard
):
    async def story():
        async with world(tmp_path) as w:
            b, view, writes, answer = await _offered(w, monkeypatch, heard=heard)
            assert answer.answer == "OK"
            rows = {row.id: row for row in b.catalog.read_now(lambda tx: tx.sets())}
            assert rows[view.id].revision == b.shelf.known[view.id].record.revision == 1 + heard
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert writes == [int(heard), 1]  # the promise, and the commit

    asyncio.run(story())


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("why", ["not today", "no space"])
def test_of_a_set_that_is_refused_the_newest_record_is_kept(tmp_path, monkeypatch, why, heard):
    async def story():
        async with world(tmp_path) as w:
            b, view, _, answer = await _offered(w, monkeypatch, why, heard=heard)
            assert answer.answer == "REJECTED"
            rows = {row.id: row for row in b.catalog.read_now(lambda tx: tx.sets())}
            assert rows[view.id].revision == b.shelf.known[view.id].record.revision == 1 + heard
            assert view.id not in b.shelf.replicas

    asyncio.run(story())


def test_a_promise_that_cannot_be_written_down_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": b"x"})
            monkeypatch.setattr(b.shelf, "keep", _none)
            monkeypatch.setattr("cached.node.space.FEW", 0)  # there is a staging area by now
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert answer.answer == "REJECTED"
            assert left_behind(b) == NOTHING

    asyncio.run(story())

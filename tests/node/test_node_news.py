"""What waits for other news: that a set is coming which will soon be here, and a wish that is carried out already."""

from __future__ import annotations

import asyncio

import pytest
from cached.node import drive, replicate
from cached.node.announce import UNHURRIED
from cached.replication import method
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")


@pytest.mark.parametrize(("worth", "first"), [(1 << 40, UNHURRIED), (0, None)])
def test_that_a_set_is_coming_is_told_at_once_only_where_others_may_share_its_bytes(
    tmp_path, monkeypatch, worth, first
):
    monkeypatch.setattr(method, "_WORTH", worth)

    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": bytes(100_000)})
            await w.gossip()
            b.directory.waits.clear()
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert answer.answer == "OK"
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert b.directory.waits[0] == first
            assert b.directory.waits[-1] is None  # that it is here

    asyncio.run(story())


@pytest.mark.parametrize(("seconds", "asked"), [(3600.0, 1), (0.0, 2)])
def test_a_copy_that_was_accepted_counts_before_it_is_told_of_and_not_for_ever(
    tmp_path, monkeypatch, seconds, asked
):
    monkeypatch.setattr(drive, "PROMISED", seconds)

    async def story():
        async with world(tmp_path) as w:
            a, *others = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=1)
            await w.gossip()
            known = a.shelf.known[view.id]
            for node in others:
                monkeypatch.setattr(node.directory, "publish", lambda *_: None)
            await drive.look_after(a, known)
            [first] = [node for node in others if view.id in node.shelf.replicas]
            # whoever accepted is told of as having nothing; the other one turns up as if it were new
            [second] = [node for node in others if node is not first]
            w.down.add(first.directory.name)
            await drive.look_at_moved(a, frozenset((second.id,)))
            await until(lambda: not a.flights)
            assert sum(view.id in node.shelf.replicas for node in others) == asked

    asyncio.run(story())


@pytest.mark.parametrize("drives", [True, False])
def test_a_wish_for_copies_is_told_at_once_unless_this_node_sees_to_it(tmp_path, monkeypatch, drives):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            await create_set(node, ALICE, "nr", {"f": b"x"})
            monkeypatch.setattr(drive, "drives", lambda *_: drives)
            node.directory.waits.clear()
            await replicate.replicate(node, ALICE, parse_ref("nr"), 3, (), False, 1.0, None)
            assert node.directory.waits == [UNHURRIED if drives else None]

    asyncio.run(story())

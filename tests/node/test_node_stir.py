"""Only what changed is looked at again, and that is never forgotten."""

from __future__ import annotations

import asyncio

from cached.node import drive, fetch
from cached.node.rejections import Rejections
from cached.node.stir import News, Stir
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
NR = parse_ref("nr")
FILES = {"f": b"content"}


def test_what_happens_is_gathered_until_it_is_taken():
    async def story() -> None:
        stir = Stir()
        assert stir.take() == News()
        stir.set("one")
        stir.set("two")
        stir.moved(["a", "b"])
        stir.moved(["b"])
        await stir.wait()
        assert stir.take() == News(sets=frozenset({"one", "two"}), nodes=frozenset({"a", "b"}))
        stir.set()
        await stir.wait()
        assert stir.take() == News(everything=True)
        assert stir.take() == News()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_node_that_changed_is_matched_with_the_sets_that_it_could_be_offered_and_no_other_node_is(tmp_path):
    async def story() -> None:
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "nr", FILES)
            other = await create_set(a, ALICE, "none", {"g": b"other"}, replicas=0)
            await w.gossip()
            a.counted = {view.id: 0, other.id: 0}
            asked: list[tuple[str, str]] = []
            match = a.matchmaker.match

            async def heard(pairs):
                asked.extend((left["CacheName"], right["Name"]) for left, right in pairs)
                return await match(pairs)

            a.matchmaker.match = heard
            assert await drive.agreeing(a, frozenset({b.id})) == {view.id: {b.id}}
            assert asked == [("nr", "b")]
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            asked.clear()
            assert await drive.agreeing(a, frozenset({b.id})) == {}
            assert asked == [], "who holds it is not asked again"
            assert await drive.agreeing(a, frozenset({b.id, c.id})) == {view.id: {c.id}}
            w.down.add("c")
            assert await drive.agreeing(a, frozenset({c.id})) == {}

    asyncio.run(story())


def test_a_refusal_that_stands_keeps_a_node_from_being_matched_until_it_lapses(tmp_path):
    async def story() -> None:
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES)
            await w.gossip()
            a.counted = {view.id: 0}
            entry, known = a.directory.node("b"), a.shelf.known[view.id]
            a.rejections.add(view.id, b.id, "no", drive.ads_digest(a, known, entry))
            assert await drive.agreeing(a, frozenset({b.id})) == {}
            a.rejections.add(view.id, b.id, "no", "of another ad")
            assert await drive.agreeing(a, frozenset({b.id})) == {view.id: {b.id}}

    asyncio.run(story())


def test_lapsed_refusals_are_told_once_by_set():
    rejections = Rejections()
    rejections.add("lasting", "a", "no", "")
    rejections.add("short", "a", "no", "", seconds=-1.0)
    rejections.add("short", "b", "no", "")
    assert rejections.lapsed() == {"short"}
    assert rejections.lapsed() == set()
    assert set(rejections.of("short")) == {"b"}


def test_a_copy_that_is_lost_is_made_up_for_by_nodes_that_have_not_changed(tmp_path):
    async def story() -> None:
        async with world(tmp_path) as w:
            nodes = {name: await w.node(name) for name in "abc"}
            a = nodes["a"]
            view = await create_set(a, ALICE, "nr", FILES, replicas=1)
            await w.gossip()
            await drive.look_after(a, a.shelf.known[view.id])

            def holding() -> list[str]:
                held = {name: node.shelf.replicas.get(view.id) for name, node in nodes.items()}
                return [
                    name for name, row in held.items() if name != "a" and row and row.state == "COMMITTED"
                ]

            await until(lambda: len(holding()) == 1)
            await w.gossip()
            await drive.look_after(a, a.shelf.known[view.id])
            (first,) = holding()
            w.down.add(first)
            await drive.look_at_moved(a, frozenset({nodes[first].id}))
            await until(lambda: len(holding()) == 2)

    asyncio.run(story())


def test_a_set_that_comes_to_be_driven_from_here_is_looked_after_with_all_nodes(tmp_path):
    async def story() -> None:
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "nr", FILES)
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            w.down.add("a")
            await drive.look_at_moved(b, frozenset({a.id}))
            await until(
                lambda: view.id in c.shelf.replicas and c.shelf.replicas[view.id].state == "COMMITTED"
            )

    asyncio.run(story())

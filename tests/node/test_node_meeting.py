"""Nodes that fetch the same set introduce themselves to each other, one of two for both."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from cached.node import drive, meeting, offer
from cached.node.joined import Enclosed, Joined
from cached.node.meeting import Meeting
from cached.peers.records import Peer
from cached.replication import mesh, method
from msgspec.structs import replace
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
JOIN = "source.join"


@pytest.fixture(autouse=True)
def everything_is_worth_sharing(monkeypatch):
    monkeypatch.setattr(method, "_WORTH", 0)


@contextlib.asynccontextmanager
async def fetching(tmp_path, names="bc", neighbours=()):
    """Node a has a set, and the others have begun to fetch it, in this order; nothing of it comes."""
    async with world(tmp_path) as w:
        a = await w.node("a")
        others = [await w.node(name) for name in names]
        view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=0, methods=("direct",))
        await w.gossip()

        async def nothing_comes(*_) -> None:
            await asyncio.Event().wait()

        for node in others:
            node.direct.fetch = nothing_comes
            a.consents.give(node.id, view.content)
            proposed = replace(await offer.make(a, a.shelf.known[view.id]), neighbours=neighbours)
            answer = await offer.consider(node, Peer(node_id=a.id, domains=a.identity.domains), proposed)
            assert answer.answer == "OK"
            await until(lambda node=node: view.id in node.meetings)
        await w.gossip()
        yield w, [a, *others], view


def asks(node, other) -> int:
    return node.link.calls.count((other.id, JOIN))


def agreed(node, set_id) -> set[str]:
    return set(node.meetings[set_id].agreed) if set_id in node.meetings else set()


def turns(monkeypatch, first) -> None:
    """Have `first` introduce itself and all others, and nobody else."""
    monkeypatch.setattr(mesh, "introduces", lambda node_id, _other: node_id == first())


def test_of_two_that_fetch_a_set_one_introduces_both(tmp_path, monkeypatch):
    async def story():
        speaker: list[str] = []
        turns(monkeypatch, lambda: speaker[0] if speaker else "")
        monkeypatch.setattr(meeting, "COURTESY", 1e9)
        async with fetching(tmp_path) as (_, (a, b, c), view):
            await asyncio.sleep(0.2)
            assert (agreed(b, view.id), agreed(c, view.id)) == ({a.id}, {a.id})
            speaker.append(b.id)
            await until(lambda: agreed(b, view.id) == {a.id, c.id})
            assert agreed(c, view.id) == {a.id, b.id}
            assert (asks(b, c), asks(c, b)) == (1, 0)
            assert b.consents.allowed(c.id, view.content)
            assert c.consents.allowed(b.id, view.content)

    asyncio.run(story())


def test_whoever_waits_in_vain_to_be_introduced_asks_itself(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
        monkeypatch.setattr(meeting, "COURTESY", 0.2)
        async with fetching(tmp_path) as (_, (a, b, c), view):
            await until(lambda: agreed(b, view.id) == {a.id, c.id} and agreed(c, view.id) == {a.id, b.id})

    asyncio.run(story())


def test_who_is_streamed_fewer_bytes_than_anybody_shares_meets_nobody_else(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr(mesh, "introduces", lambda *_: True)
        monkeypatch.setattr(method, "_WORTH", 8 << 20)
        async with fetching(tmp_path) as (w, (a, b, c), view):
            await asyncio.sleep(0.2)
            assert agreed(b, view.id) == {a.id}
            w.down.add("a")
            await until(lambda: c.id in agreed(b, view.id))

    asyncio.run(story())


def test_a_node_that_cannot_be_reached_waits_for_nobody(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
        monkeypatch.setattr(meeting, "COURTESY", 1e9)
        async with fetching(tmp_path) as (_, (a, b, c), view):
            b.directory.reachable = False
            await until(lambda: agreed(b, view.id) == {a.id, c.id})
            assert agreed(c, view.id) == {a.id, b.id}, "its word counts for both"

    asyncio.run(story())


def test_who_does_not_agree_with_the_other_says_nothing_of_what_it_gives(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
        monkeypatch.setattr(meeting, "COURTESY", 1e9)
        async with fetching(tmp_path) as (_, (a, b, c), view):
            b.matchmaker.judge = lambda _set, _node: "not with that one"
            turns(monkeypatch, lambda: b.id)
            await until(lambda: agreed(b, view.id) == {a.id, c.id})
            assert agreed(c, view.id) == {a.id}
            assert not b.consents.allowed(c.id, view.content)

    asyncio.run(story())


def test_who_is_met_for_the_metadata_alone_becomes_no_neighbour(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
        monkeypatch.setattr(meeting, "COURTESY", 1e9)
        async with fetching(tmp_path) as (_, (a, b, c), view):
            holders = b.meetings[view.id]
            monkeypatch.setattr(holders, "_choose_neighbours", lambda _: None)
            holders.near = set()
            assert await holders.meet(c.id, 5.0)
            assert agreed(c, view.id) == {a.id}
            assert c.id not in {one.node_id for one in holders.swarm()}

    asyncio.run(story())


def test_who_is_told_how_the_other_gives_a_set_that_it_does_not_fetch_just_answers(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            giving = Joined(complete=False, bittorrent_port=7)
            body = {"set": view.id, "ad": b.directory.published.ad, "giving": giving}
            answer = await b.link.call(a.id, JOIN, body)
            assert answer["complete"]
            assert a.meetings == {}

    asyncio.run(story())


def test_a_fellow_that_has_all_of_it_now_counts_as_whole_and_is_not_asked_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0)
            await w.gossip()
            holders = Meeting(node=b, set_id=view.id)
            entry = b.directory.node(a.id)
            now = asyncio.get_running_loop().time()
            holders.count(entry, Joined(complete=False, bittorrent_port=7), now)
            assert holders.direct() == []
            await holders.look()
            assert [one.node_id for one in holders.direct()] == [a.id]
            assert asks(b, a) == 0

    asyncio.run(story())


def test_of_very_many_holders_a_node_meets_some_the_originator_among_them(tmp_path, monkeypatch):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            entry, (found, ids) = b.directory.node(a.id), many(b, a, 60, "COMMITTED")
            holders, met = Meeting(node=b, set_id=view.id), []

            async def introduce(entry, *_):
                met.append(entry.record.id)
                holders.count(
                    entry, Joined(complete=True, bittorrent_port=7), asyncio.get_running_loop().time()
                )

            monkeypatch.setattr(holders, "_introduce", introduce)
            monkeypatch.setattr(holders, "_candidates", lambda: [*found, (entry, "COMMITTED")])
            await holders.look()
            assert len(met) == mesh.FULL_MESH
            assert {a.id, ids[0]} <= set(met)
            await holders.look()
            assert len(met) == mesh.FULL_MESH

    asyncio.run(story())


def test_neighbours_that_an_offer_names_are_met_before_they_tell_of_the_set(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0)
            await w.gossip()
            now = asyncio.get_running_loop().time()
            for when, expected in ((now, {c.id}), (now - meeting.NAMED - 1, set())):
                holders = Meeting(node=b, set_id=view.id)
                holders.offered(Enclosed(a.id, None, b"", when=when, neighbours=(c.id, "f" * 32)))
                holders._choose_neighbours(holders._candidates())
                assert holders.near == expected

    asyncio.run(story())


def many(b, a, count: int, state: str = "TRANSFERRING", **entry):
    """Return so many nodes like `a` as candidates for b, and their ids."""
    like = b.directory.node(a.id)
    ids = [f"{number:032x}" for number in range(count)]
    return [(replace(like, record=replace(like.record, id=one), **entry), state) for one in ids], ids


def test_of_many_that_fetch_the_named_ones_are_the_neighbours_at_first(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            found, ids = many(b, a, 40)
            holders = Meeting(node=b, set_id=view.id)
            now = asyncio.get_running_loop().time()
            holders.offered(Enclosed(a.id, None, b"", when=now, neighbours=tuple(ids[3:6])))
            holders._choose_neighbours(found)
            assert holders.near == set(ids[3:6])
            holders.named_until = now
            holders._choose_neighbours(found)
            assert holders.near == {*ids[3:6]} | mesh.fellows(b.id, ids)

    asyncio.run(story())


def test_neighbours_stay_until_few_are_left(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            found, ids = many(b, a, 40)
            holders = Meeting(node=b, set_id=view.id)
            holders._choose_neighbours(found)
            first = set(holders.near)
            assert first == mesh.fellows(b.id, ids)
            left = sorted(first)[: len(first) - meeting.ENOUGH + 1]
            done = [(entry, "COMMITTED" if entry.record.id in first else state) for entry, state in found]
            for told in (found, done):
                holders._choose_neighbours(told)
                assert holders.near == first
                holders._choose_neighbours([one for one in told if one[0].record.id not in left[1:]])
                assert holders.near == first - set(left[1:])
                holders.near = set(first)
            holders._choose_neighbours([one for one in found if one[0].record.id not in left])
            assert holders.near > first - set(left)

    asyncio.run(story())


@pytest.mark.parametrize(("age", "stays"), [(20.0, True), (40.0, False)])
def test_a_neighbour_of_which_nothing_is_heard_for_a_while_stays_a_neighbour(tmp_path, age, stays):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            silent, [one] = many(b, a, 1, alive=False, age=age)
            holders = Meeting(node=b, set_id=view.id)
            holders._choose_neighbours(silent)
            assert (holders.near == {one}) is stays

    asyncio.run(story())


@pytest.mark.parametrize("shared", [True, False])
def test_offers_name_the_neighbours_where_the_set_is_shared(tmp_path, monkeypatch, shared):
    async def story():
        monkeypatch.setattr(method, "DIRECT_UP_TO", 0 if shared else 1 << 40)
        async with world(tmp_path) as w:
            a, *others = [await w.node(name) for name in "abcd"]
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=3)
            await w.gossip()
            named: dict[str, set[str]] = {}
            for node in others:

                async def considering(peer, body, *, node=node, consider=node.link.methods["offer.consider"]):
                    named[node.id] = set(body["neighbours"])
                    return await consider(peer, body)

                node.link.handle("offer.consider", considering)
            await drive.look_after(a, a.shelf.known[view.id])
            ids = {node.id for node in others}
            assert named == {one: ids - {one} if shared else set() for one in ids}

    asyncio.run(story())

"""Nodes that fetch the same set introduce themselves to each other, one of two for both."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from cached.errors import CachedError, Forbidden, PeerUnreachable
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


async def nothing_comes(*_) -> None:
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def fetching(tmp_path, names="bc", named=True):
    """Node a has a set, and the others have begun to fetch it, named to each other or not; nothing of it comes."""
    async with world(tmp_path) as w:
        a = await w.node("a")
        others = [await w.node(name) for name in names]
        view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=0, methods=("direct",))
        await w.gossip()

        for node in others:
            node.direct.fetch = nothing_comes
            a.consents.give(node.id, view.content)
            neighbours = tuple(one.id for one in others) if named else ()
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
    """Have `first` introduce itself and all others, and nobody else, however long it takes."""
    monkeypatch.setattr(meeting, "COURTESY", 1e9)
    monkeypatch.setattr(mesh, "introduces", lambda node_id, _other: node_id == first())


def test_of_two_that_fetch_a_set_one_introduces_both(tmp_path, monkeypatch):
    async def story():
        speaker: list[str] = []
        turns(monkeypatch, lambda: speaker[0] if speaker else "")
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


@pytest.mark.parametrize("which", ["itself", "the other"])
def test_of_two_of_which_one_cannot_be_reached_nobody_waits_for_the_other(tmp_path, monkeypatch, which):
    async def story():
        turns(monkeypatch, lambda: "")
        async with fetching(tmp_path) as (_, (a, b, c), view):
            if which == "itself":
                b.directory.reachable = False
            else:
                entry = c.directory._entry()
                hidden = replace(entry, record=replace(entry.record, reachable=False))
                c.directory._entry = lambda: hidden
            await until(lambda: agreed(b, view.id) == {a.id, c.id})
            assert agreed(c, view.id) == {a.id, b.id}, "its word counts for both"

    asyncio.run(story())


def test_who_does_not_agree_with_the_other_says_nothing_of_what_it_gives(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
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
        async with fetching(tmp_path) as (_, (a, b, c), view):
            holders = b.meetings[view.id]
            monkeypatch.setattr(holders, "_choose_neighbours", lambda _: None)
            holders.neighbours.chosen = set()
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


def told(directory, node, state: str, record_age: float = 0.0):
    """Have the directory tell of that node's replica in that state, in a record of that age."""
    [entry] = [
        one for one in directory.holders(next(iter(node.shelf.known))) if one.node.record.id == node.id
    ]
    entry = replace(
        entry, node=replace(entry.node, record_age=record_age), holding=replace(entry.holding, state=state)
    )
    directory.holders = lambda _: [entry]


@pytest.mark.parametrize(
    ("before", "state", "age", "whole"),
    [
        (False, "COMMITTED", 0.0, True),
        (False, "COMMITTED", 60.0, False),
        (True, "TRANSFERRING", 0.0, False),
        (True, "TRANSFERRING", 60.0, True),
        (False, "TRANSFERRING", 0.0, False),
    ],
)
def test_who_has_all_of_it_by_now_or_no_more_is_known_by_what_it_told_since_it_was_met(
    tmp_path, before, state, age, whole
):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0)
            await w.gossip()
            told(b.directory, a, state, age)
            holders = Meeting(node=b, set_id=view.id)
            now = asyncio.get_running_loop().time()
            met = Joined(complete=before, bittorrent_port=7)
            holders.count(b.directory.node(a.id), met, now - 30)
            await holders.look()
            assert bool(holders.direct()) is whole
            assert asks(b, a) == 0

    asyncio.run(story())


def test_who_offers_what_it_fetches_itself_is_not_whole_though_it_has_told_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0)
            await w.gossip()
            b.sources[view.id] = a.id
            b.directory.holders = lambda _: []
            holders = Meeting(node=b, set_id=view.id)
            now = asyncio.get_running_loop().time()
            holders.offered(Enclosed(a.id, Joined(complete=False, bittorrent_port=7), b"", when=now))
            await holders.look()
            assert [one.complete for one, *_ in holders.agreed.values()] == [False]

    asyncio.run(story())


@pytest.mark.parametrize("fellows", [0, 20])
def test_of_very_many_holders_a_node_meets_some_the_originator_among_them(tmp_path, monkeypatch, fellows):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            entry, (found, ids) = b.directory.node(a.id), many(b, a, 60, "COMMITTED")
            dead = (replace(entry, record=replace(entry.record, id="0" * 40), alive=False), "COMMITTED")
            holders, met = Meeting(node=b, set_id=view.id), []
            now = asyncio.get_running_loop().time()
            for one, _ in many(b, a, fellows)[0]:
                fellow = replace(one, record=replace(one.record, id="f" + one.record.id[1:]))
                holders.count(fellow, Joined(complete=False, bittorrent_port=7), now)

            async def introduce(entry, *_):
                met.append(entry.record.id)
                holders.count(entry, Joined(complete=True, bittorrent_port=7), now)

            living = [one for one, _ in found]
            monkeypatch.setattr(b.directory, "nodes", lambda: [*living, entry])
            monkeypatch.setattr(holders, "_introduce", introduce)
            monkeypatch.setattr(holders, "_candidates", lambda: [dead, *found, (entry, "COMMITTED")])
            await holders.look()
            assert len(met) == mesh.FULL_MESH
            assert {a.id, ids[0]} <= set(met)
            await holders.look()
            assert len(met) == mesh.FULL_MESH
            living.remove(next(one for one in living if one.record.id in met))
            await holders.look()
            assert len(met) == mesh.FULL_MESH + 1

    asyncio.run(story())


def test_neighbours_that_an_offer_names_are_met_before_they_tell_of_the_set(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr(mesh, "introduces", lambda *_: True)
        monkeypatch.setattr(meeting, "RETRY", 1e9)
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            stranger = await w.node("s", domain="physics.edu")
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0, methods=("bittorrent",))
            await w.gossip()
            holders = Meeting(node=b, set_id=view.id)
            now = asyncio.get_running_loop().time()
            names = (c.id, "f" * 40, b.id, stranger.id)
            holders.offered(Enclosed(a.id, None, b"", when=now, neighbours=names))
            for _ in range(3):
                await holders.look()
            assert (asks(b, c), asks(b, stranger)) == (1, 0)
            assert c.id not in holders.agreed
            entry = next(iter(a.directory.holders(view.id)))
            late = replace(
                entry, node=b.directory.node(c.id), holding=replace(entry.holding, state="TRANSFERRING")
            )
            b.directory.holders = lambda _: [entry, late]
            await holders.look()
            assert asks(b, c) == 2, "as soon as it tells of the set"

    asyncio.run(story())


def test_who_fails_to_answer_but_has_introduced_both_meanwhile_is_met(tmp_path, monkeypatch):
    async def story():
        turns(monkeypatch, lambda: "")
        async with fetching(tmp_path) as (_, (_, b, c), view):

            async def failing(node_id, method):
                if method == JOIN:
                    holders = b.meetings[view.id]
                    giving = Joined(complete=False, bittorrent_port=7)
                    meeting.introduced(b, Peer(node_id=c.id, domains=c.identity.domains), view.id, giving)
                    assert c.id in holders.agreed
                    raise PeerUnreachable("no answer")

            b.link.before = failing
            assert await b.meetings[view.id].meet(c.id, 5.0)
            assert c.id not in b.meetings[view.id].refused

    asyncio.run(story())


def test_whoever_introduces_itself_counts_as_one_that_fetches_whatever_it_says(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (w, (a, b), view):
            c = await w.node("c")
            giving = Joined(complete=True, bittorrent_port=7)
            meeting.introduced(b, Peer(node_id=c.id, domains=c.identity.domains), view.id, giving)
            found = {key: holder.complete for key, (holder, *_) in b.meetings[view.id].agreed.items()}
            assert found == {a.id: True, c.id: False}

    asyncio.run(story())


def test_who_comes_late_asks_those_who_are_there_before_it_begins_whoever_is_to_introduce_both(
    tmp_path, monkeypatch
):
    async def story():
        turns(monkeypatch, lambda: "")
        async with fetching(tmp_path, "b", named=False) as (w, (a, b), view):
            c, answers = await w.node("c"), asyncio.Event()
            await w.gossip()

            async def waiting(node_id, method):
                if (node_id, method) == (b.id, JOIN):
                    await answers.wait()

            c.link.before = waiting
            a.consents.give(c.id, view.content)
            proposed = await offer.make(a, a.shelf.known[view.id])
            await offer.consider(c, Peer(node_id=a.id, domains=a.identity.domains), proposed)
            await until(lambda: view.id in c.meetings and asks(c, b))
            holders = c.meetings[view.id]
            assert set(holders.agreed) == {a.id}
            assert not holders.met.is_set()
            answers.set()
            await until(holders.met.is_set)
            assert set(holders.agreed) == {a.id, b.id}

    asyncio.run(story())


def test_a_few_bytes_that_somebody_streams_wait_for_no_other_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(method, "_WORTH", 8 << 20)
    monkeypatch.setattr(meeting, "LASTS", 3600.0)

    async def story():
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=1)
            await w.gossip()
            await drive.look_after(a, a.shelf.known[view.id])
            other, late = (b, c) if view.id in b.shelf.replicas else (c, b)
            await until(lambda: view.id not in other.transfers)
            await w.gossip()

            async def silent(node_id, method):
                if (node_id, method) == (other.id, JOIN):
                    await asyncio.Event().wait()

            late.link.before = silent
            a.consents.give(late.id, view.content)
            proposed = await offer.make(a, a.shelf.known[view.id])
            await offer.consider(late, Peer(node_id=a.id, domains=a.identity.domains), proposed)
            await until(lambda: view.id not in late.transfers)
            assert late.shelf.replicas[view.id].state == "COMMITTED"
            assert asks(late, other) == 0

    asyncio.run(story())


def test_whoever_is_known_to_have_all_bytes_does_not_have_fewer_by_introducing_itself_late(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            giving = Joined(complete=False, bittorrent_port=7)
            meeting.introduced(b, Peer(node_id=a.id, domains=a.identity.domains), view.id, giving)
            assert b.meetings[view.id].agreed[a.id][0].complete

    asyncio.run(story())


def many(b, a, count: int, state: str = "TRANSFERRING", **entry):
    """Return so many nodes like `a` as candidates for b, and their ids."""
    like = b.directory.node(a.id)
    ids = [f"{number:032x}" for number in range(count)]
    return [(replace(like, record=replace(like.record, id=one), **entry), state) for one in ids], ids


@pytest.mark.parametrize(("age", "counts"), [(20.0, True), (40.0, False)])
def test_a_node_of_which_nothing_is_heard_for_a_while_may_be_chosen_as_a_neighbour(tmp_path, age, counts):
    async def story():
        async with fetching(tmp_path, "b") as (_, (a, b), view):
            silent, [one] = many(b, a, 1, alive=False, age=age)
            holders = Meeting(node=b, set_id=view.id)
            holders._choose_neighbours(silent)
            assert (holders.neighbours.chosen == {one}) is counts

    asyncio.run(story())


def test_a_node_that_is_not_trusted_with_a_set_is_met_by_nobody_however_it_is_named(tmp_path):
    async def story():
        async with fetching(tmp_path, "b") as (w, (_, b), view):
            stranger = await w.node("s", domain="physics.edu")
            holders = b.meetings[view.id]
            now = asyncio.get_running_loop().time()
            holders.offered(Enclosed(stranger.id, Joined(complete=True, bittorrent_port=7), b"", when=now))
            assert not await holders.meet(stranger.id, 5.0)
            holders.count(b.directory.node(stranger.id), Joined(complete=True, bittorrent_port=7), now)
            assert stranger.id not in holders.agreed
            assert asks(b, stranger) == 0
            assert not await holders.meet(b.id, 5.0)

    asyncio.run(story())


def test_an_offer_of_a_private_set_by_a_node_that_does_not_speak_for_its_owner_is_refused(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            stranger = await w.node("s", domain="physics.edu")
            view = await create_set(a, ALICE, "nr", {"f": b"x"}, replicas=0)
            await w.gossip()
            proposed = await offer.make(a, a.shelf.known[view.id])
            as_stranger = Peer(node_id=stranger.id, domains=stranger.identity.domains)
            answer = await offer.consider(b, as_stranger, proposed)
            assert (answer.answer, answer.code) == ("REJECTED", Forbidden.code)
            assert view.id not in b.shelf.replicas

    asyncio.run(story())


@pytest.mark.parametrize(
    "nonsense",
    [
        {"bittorrent_port": 70000},
        {"bittorrent_port": -1},
        {"methods": ["x"] * 9},
        {"methods": ["x" * 33]},
        {"encryption": "x" * 33},
    ],
)
def test_nonsense_about_how_a_node_gives_is_refused_and_leaves_nothing(tmp_path, nonsense):
    async def story():
        async with fetching(tmp_path) as (_, (_, b, c), view):
            b.meetings[view.id].agreed.pop(c.id, None)
            giving = {"complete": False, "bittorrent_port": 7} | nonsense
            with pytest.raises(CachedError):
                await c.link.call(b.id, JOIN, {"set": view.id, "ad": {}, "giving": giving})
            assert c.id not in b.meetings[view.id].agreed

    asyncio.run(story())


def names_in_offers(nodes) -> dict[str, set[str]]:
    """Return what grows by whom the offers name that these nodes get."""
    named: dict[str, set[str]] = {}
    for node in nodes:

        async def considering(peer, body, *, node=node, consider=node.link.methods["offer.consider"]):
            named[node.id] = set(body["neighbours"])
            return await consider(peer, body)

        node.link.handle("offer.consider", considering)
    return named


@pytest.mark.parametrize("shared", [True, False])
def test_offers_name_the_neighbours_where_the_set_is_shared(tmp_path, monkeypatch, shared):
    async def story():
        monkeypatch.setattr(method, "DIRECT_UP_TO", 0 if shared else 1 << 40)
        async with world(tmp_path) as w:
            a, *others = [await w.node(name) for name in "abcd"]
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=3)
            await w.gossip()
            named = names_in_offers(others)
            await drive.look_after(a, a.shelf.known[view.id])
            ids = {node.id for node in others}
            assert named == {one: ids - {one} if shared else set() for one in ids}

    asyncio.run(story())


def test_who_comes_to_those_who_have_begun_is_offered_the_set_without_names(tmp_path, monkeypatch):
    async def story():
        monkeypatch.setattr(method, "DIRECT_UP_TO", 0)
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            b.swarm.fetch = b.direct.fetch = nothing_comes
            view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=3)
            await w.gossip()
            await drive.look_after(a, a.shelf.known[view.id])
            await until(lambda: view.id in b.transfers)
            late = [await w.node(name) for name in "cd"]
            await w.gossip()
            named = names_in_offers(late)
            await drive.look_after(a, a.shelf.known[view.id])
            assert named == {node.id: set() for node in late}

    asyncio.run(story())

"""What nodes agree on: offers, introductions, methods, who drives, repairs; they exchange real bytes."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest
from cached import wire
from cached.errors import Busy, Forbidden, NoSource, NotFound
from cached.node import (
    drive,
    fetch,
    meeting,
    offer,
    read,
    receive,
    replicate,
    revise,
    seeding,
    sources,
    verify,
)
from cached.node.joined import Joined
from cached.node.meeting import Meeting
from cached.peers.records import Peer
from cached.replication import layout, mesh, method
from cached.sets.names import parse_ref
from tests.node.fakes import (
    NOTHING,
    caller,
    create_set,
    hand_over,
    left_behind,
    signed_by,
    until,
    world,
)

ALICE = caller("alice")
NR = parse_ref("nr")
FILES = {"f": os.urandom(300_000), "dir/g": b"more", "empty": b""}


def peer(node) -> Peer:
    return Peer(node_id=node.id, domains=node.identity.domains)


async def two(w, **config):
    a, b = await w.node("a"), await w.node("b", **config)
    view = await create_set(a, ALICE, "nr", FILES, lease_seconds=1000)
    await w.gossip()
    return a, b, view


def bytes_of(node, ref):
    set_ref = parse_ref(ref)
    found = read.open_now(node, ALICE, set_ref, set_ref.path)
    with os.fdopen(found.fd, "rb") as file:
        data = file.read()
    read.release(node, found.pin)
    return data


async def settled(node, set_id):
    """Wait until nothing moves to the node any more."""
    await until(lambda: set_id not in node.transfers)


def test_a_record_that_understates_its_size_is_refused(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            lie = signed_by(a, a.shelf.known[view.id].signed, revision=5, bytes=1)
            a.consents.give(b.id, view.content)
            proposed = msgspec.structs.replace(await offer.make(a, a.shelf.known[view.id]), record=lie)
            assert (await offer.consider(b, peer(a), proposed)).answer == "OK"
            await until(lambda: view.id not in b.shelf.replicas)
            await settled(b, view.id)
            assert left_behind(b) == NOTHING

    asyncio.run(story())


def test_an_offer_promises_no_longer_than_the_owner_wants_the_set(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            a.consents.give(b.id, view.content)
            proposed = msgspec.structs.replace(
                await offer.make(a, a.shelf.known[view.id]), lease_seconds=1e12
            )
            proposed = msgspec.structs.replace(proposed, piece_size=3, receivers=-4)
            answer = await offer.consider(b, peer(a), proposed)
            assert (answer.answer, answer.grant_seconds) == ("OK", 1000)
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")

    asyncio.run(story())


def test_bytes_that_are_just_going_are_not_taken_for_a_new_set(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            view = await create_set(a, ALICE, "nr", FILES)
            other = await create_set(a, ALICE, "other", FILES)
            b = await w.node("b")
            await w.gossip()
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            async with b.locks(f"content {view.content}"):
                deletion = asyncio.create_task(revise.delete(b, ALICE, NR, False, False))
                await until(lambda: b.shelf.replicas[view.id].state == "GOING")
                proposed = await offer.make(a, a.shelf.known[other.id])
                accepting = asyncio.create_task(offer.consider(b, peer(a), proposed))
                await until(lambda: b.space._reserved)
            await deletion
            answer = await accepting
            if answer.answer == "REJECTED":
                assert answer.code == Busy.code
                await until(lambda: view.id not in b.shelf.replicas)
                a.consents.give(b.id, view.content)
                assert (await offer.consider(b, peer(a), proposed)).answer == "OK"
            a.consents.give(b.id, view.content)
            await until(lambda: b.shelf.replicas[other.id].state == "COMMITTED")
            assert bytes_of(b, "other/f") == FILES["f"]

    asyncio.run(story())


def test_nodes_agree_on_methods_and_encryption_with_each_holder(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            holders = Meeting(node=b, set_id=view.id)
            await holders.look()
            assert [one.node_id for one in holders.direct()] == [a.id]
            assert [one.node_id for one in holders.swarm()] == [a.id]
            assert holders.source() == a.id
            b.swarm.encrypted = False
            assert holders.swarm() == []
            assert (holders.offer("bittorrent"), holders.offer("direct"), holders.source()) == (
                False,
                True,
                "",
            )
            await fetch.fetch(b, ALICE, NR, None)
            assert b.swarm.fetches == 0, "no patience is wasted on connections that cannot be"

    asyncio.run(story())


def test_a_holder_restricted_to_one_method_is_asked_for_no_other(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a", methods=("bittorrent",))
            b = await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, methods=("bittorrent", "direct"))
            await w.gossip()
            holders = Meeting(node=b, set_id=view.id)
            await holders.look()
            assert holders.direct() == []
            assert [one.node_id for one in holders.swarm()] == [a.id]

    asyncio.run(story())


def test_of_many_that_fetch_a_set_a_node_introduces_itself_to_its_neighbours_alone(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            others = [await w.node(name) for name in "cdef"]
            await w.gossip()
            near = {others[0].id, others[2].id}
            monkeypatch.setattr(mesh, "FULL_MESH", 4)
            monkeypatch.setattr(mesh, "fellows", lambda _node, fetchers: near & set(fetchers))
            monkeypatch.setattr(mesh, "introduces", lambda *_: True)
            monkeypatch.setattr(method, "_WORTH", 0)
            holders, asked, call = Meeting(node=b, set_id=view.id), [], b.link.call
            fetching = [(b.directory.node(one.id), "TRANSFERRING") for one in others]
            monkeypatch.setattr(
                holders, "_candidates", lambda: [(b.directory.node(a.id), "COMMITTED"), *fetching]
            )

            async def calling(peer, method, body, timeout=10.0):
                asked.append(peer)
                if peer != a.id:
                    return msgspec.to_builtins(Joined(complete=False, bittorrent_port=7))
                return await call(peer, method, body, timeout)

            b.link.call = calling
            await holders.look()
            assert set(asked) == {a.id} | near
            assert await holders.meet(others[1].id, 5.0)
            assert {one.node_id for one in holders.swarm()} == {a.id} | near

    asyncio.run(story())


def test_the_offering_node_serves_before_the_directory_tells_of_its_replica(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            a.directory.published = msgspec.structs.replace(a.directory.published, replicas=())
            a.directory.publish = lambda *_: None
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")

    asyncio.run(story())


def test_the_driver_is_the_originator_and_then_a_holder(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            assert drive.drives(a, a.shelf.known[view.id])
            assert not drive.drives(b, b.shelf.known[view.id])
            w.down.add("a")
            assert drive.drives(b, b.shelf.known[view.id])
            w.clock.pass_(2000)
            assert not drive.drives(b, b.shelf.known[view.id]), "the owner wants it no more"

    asyncio.run(story())


def test_the_replica_count_is_kept_and_not_just_reached(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            nodes = {name: await w.node(name) for name in "abcd"}
            view = await create_set(nodes["a"], ALICE, "nr", FILES, replicas=2)
            await w.gossip()
            await drive.look_after(nodes["a"], nodes["a"].shelf.known[view.id])
            others = [nodes[name] for name in "bcd"]

            def holding():
                return [
                    n.directory.name
                    for n in others
                    if view.id in n.shelf.replicas and n.shelf.replicas[view.id].state == "COMMITTED"
                ]

            await until(lambda: len(holding()) == 2)
            await w.gossip()
            await drive.look_after(nodes["a"], nodes["a"].shelf.known[view.id])
            assert len(holding()) == 2
            w.down.add(holding()[0])
            await drive.look_after(nodes["a"], nodes["a"].shelf.known[view.id])
            await until(lambda: len(holding()) == 3)

    asyncio.run(story())


def test_replicate_to_a_node_goes_through_whoever_holds_the_set(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            c = await w.node("c")
            await w.gossip()
            reply = await replicate.replicate(c, ALICE, NR, None, ["b"], True, 20.0, None)
            assert reply.complete
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            mallory = Peer(node_id="0" * 40, domains=frozenset({"elsewhere"}))
            with pytest.raises(Forbidden):
                await replicate.serve_push(a, mallory, view.id, c.id)
            with pytest.raises(NotFound):
                await replicate.replicate(c, ALICE, NR, None, ["nowhere"], False, 1.0, None)

    asyncio.run(story())


def test_damage_is_named_and_repaired_from_another_holder(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            await fetch.fetch(b, ALICE, NR, None)
            await w.gossip()
            place = b.stores["disk"].data(view.content) / "f"
            place.chmod(0o644)
            place.write_bytes(b"y" * len(FILES["f"]))
            found = await verify.verify(b, ALICE, NR, False, None)
            assert (found.ok, {one.path for one in found.damaged}) == (False, {"f"})
            mended = await verify.verify(b, ALICE, NR, True, None)
            assert mended.ok
            assert bytes_of(b, "nr/f") == FILES["f"]
            left = left_behind(b)
            assert (left["incoming"], left["reservations"], left["reserved"]) == ([], [], 0)
            with pytest.raises(NotFound):
                await verify.verify(b, caller("mallory"), NR, False, None)
            assert a.shelf.replicas[view.id].state == "COMMITTED"

    asyncio.run(story())


def test_a_creation_waits_for_nothing_that_others_hold(tmp_path):
    """A create and an offer of the same content meet: both end, the bytes are there once."""

    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            creation = await hand_over(b, caller("bob"), "mine", FILES)
            a.consents.give(b.id, view.content)
            answer, mine = await asyncio.gather(
                offer.consider(b, peer(a), await offer.make(a, a.shelf.known[view.id])), creation.seal()
            )
            assert answer.answer == "OK"
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")
            await settled(b, view.id)
            assert mine.content == view.content
            assert b.stores["disk"].list_contents() == [view.content]
            assert left_behind(b)["reserved"] == 0
            assert isinstance(mine, wire.SetView)

    asyncio.run(story())


def test_a_node_meets_whoever_tells_of_the_set_without_waiting_for_its_next_look(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            _, b, view = await two(w)
            monkeypatch.setattr(meeting, "LOOK", 1e9)
            told = iter([1, 1, 1, 2, 2])
            b.directory.mark = lambda _set_id: next(told)
            holders = Meeting(node=b, set_id=view.id)
            await holders.look()
            await holders.news()
            assert list(told) == [2]

    asyncio.run(story())


@pytest.mark.parametrize("receivers", [1, 3])
def test_a_set_for_several_nodes_is_in_its_swarm_before_they_ask_for_it(tmp_path, monkeypatch, receivers):
    async def story():
        async with world(tmp_path) as w:
            monkeypatch.setattr(method, "DIRECT_UP_TO", 0)
            a, *others = [await w.node(name) for name in "abcd"]
            view = await create_set(a, ALICE, "nr", FILES, replicas=receivers)
            await w.gossip()
            await drive.look_after(a, a.shelf.known[view.id])
            await until(lambda: sum(view.id in other.shelf.replicas for other in others) == receivers)
            await until(lambda: f"seed {view.content}" not in a.flights)
            size = layout.piece_size(view.bytes, receivers)
            assert a.swarm.put[:1] == ([(view.content, size)] if receivers > 1 else [])

    asyncio.run(story())


def test_a_set_that_goes_to_one_node_by_a_swarm_alone_is_there_in_pieces_for_several(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", {"f": bytes(64 << 20)}, methods=("bittorrent",))
            await w.gossip()
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await until(lambda: f"seed {view.content}" not in a.flights)
            one, several = (layout.piece_size(view.bytes, n) for n in (1, seeding.USUAL_RECEIVERS))
            assert a.swarm.put[:1] == [(view.content, several)]
            assert several < one
            assert b.shelf.replicas

    asyncio.run(story())


def test_who_asks_alone_takes_pieces_for_several_and_tells_the_swarm_how_many_came_meanwhile(
    tmp_path, monkeypatch
):
    async def story():
        async with world(tmp_path) as w:
            monkeypatch.setattr(receive, "ROUNDS", 1)
            monkeypatch.setattr(receive, "PAUSE", 0)
            monkeypatch.setattr(sources, "receivers", lambda *_: 3)
            a, b = await w.node("a"), await w.node("b", methods=("bittorrent",))
            view = await create_set(a, ALICE, "nr", {"f": bytes(64 << 20)})
            await w.gossip()
            with pytest.raises(NoSource):
                await fetch.fetch(b, ALICE, NR, None)
            one, several = (layout.piece_size(view.bytes, n) for n in (1, seeding.USUAL_RECEIVERS))
            assert (b.swarm.jobs[0].receivers, b.swarm.jobs[0].piece_size) == (3, several)
            assert several < one

    asyncio.run(story())

"""What travels with an offer, so that a small set costs one question and one stream."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.node import drive, enclosing, meeting, metadata, offer
from cached.node.joined import Enclosed
from cached.node.meeting import Meeting
from cached.peers.records import Peer
from msgspec.structs import replace
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
FILES = {"f": os.urandom(300_000), "dir/g": b"more", "empty": b""}


def listening(node) -> list[str]:
    """Return a list that grows by what a node asks others, and which streams it reads."""
    asked: list[str] = []
    call, fetch, stream = node.link.call, node.link.fetch, node.direct._fetch_stream

    async def calling(peer, method, body, timeout=10.0):
        asked.append(method)
        return await call(peer, method, body, timeout)

    def fetching(peer, stream, query, timeout):
        asked.append(stream)
        return fetch(peer, stream, query, timeout)

    def streaming(peer, name, query):
        asked.append(name)
        return stream(peer, name, query)

    node.link.call, node.link.fetch, node.direct._fetch_stream = calling, fetching, streaming
    return asked


async def offered(w, files=FILES):
    a, b = await w.node("a"), await w.node("b")
    view = await create_set(a, ALICE, "nr", files, replicas=0)
    await w.gossip()
    a.consents.give(b.id, view.content)
    return a, b, view, await offer.make(a, a.shelf.known[view.id])


async def taken(a, b, view, proposed) -> None:
    answer = await offer.consider(b, Peer(node_id=a.id, domains=a.identity.domains), proposed)
    assert answer.answer == "OK"
    await until(lambda: view.id not in b.transfers)
    assert b.shelf.replicas[view.id].state == "COMMITTED"


def test_a_small_set_is_received_without_a_question_for_its_metadata_or_an_introduction(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            await w.gossip()
            asked = listening(b)
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert "source.join" not in asked
            assert metadata.STREAM not in asked

    asyncio.run(story())


def test_metadata_of_an_offer_that_is_not_that_of_the_content_is_asked_for(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed = await offered(w)
            asked = listening(b)
            wrong = proposed.metadata[:-1] + bytes([proposed.metadata[-1] ^ 1])
            wrong = wrong.replace(b"f", b"g")
            await taken(a, b, view, replace(proposed, metadata=wrong))
            assert metadata.STREAM in asked

    asyncio.run(story())


def test_an_offer_of_a_node_that_encloses_nothing_is_taken_like_any_other(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed = await offered(w)
            asked = listening(b)
            await taken(a, b, view, replace(proposed, metadata=b"", joined=None))
            assert {"source.join", metadata.STREAM} <= set(asked)

    asyncio.run(story())


def test_much_metadata_does_not_travel_with_an_offer(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            files = {f"{number:04d}": b"%d" % number for number in range(1500)}
            _, _, _, proposed = await offered(w, files)
            assert proposed.metadata == b""
            assert proposed.joined is not None

    asyncio.run(story())


def test_what_is_no_metadata_at_all_counts_as_none(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, _, view, proposed = await offered(w)
            known = a.shelf.known[view.id]
            for data in (
                b"",
                b"{",
                b"\n",
                b"x" * 300,
                b"x" * (enclosing.ENCLOSED + 1000),
                proposed.metadata + b"x",
            ):
                assert await enclosing.enclosed_in(Enclosed(a.id, None, data), known) is None
            found = await enclosing.enclosed_in(Enclosed(a.id, None, proposed.metadata), known)
            assert found is not None
            assert found.manifest.file_count == len(FILES)

    asyncio.run(story())


def test_a_holder_whose_offer_is_old_is_asked_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed = await offered(w)
            now = asyncio.get_running_loop().time()
            for when, asks in ((now, False), (now - meeting.RENEW - 1, True)):
                holders = Meeting(node=b, set_id=view.id)
                holders.offered(Enclosed(a.id, proposed.joined, b"", when))
                assert set(holders.agreed) == {a.id}
                asked = listening(b)
                await holders.look()
                assert ("source.join" in asked) == asks

    asyncio.run(story())


TINY = {"f": b"x" * 9000, "dir/g": os.urandom(5000), "empty": b""}


def test_the_bytes_of_a_very_small_set_come_with_its_offer(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", TINY, replicas=0)
            await w.gossip()
            asked = listening(b)
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert asked == []
            data = b.stores["disk"].data(view.content)
            assert {path: (data / path).read_bytes() for path in TINY} == TINY
            assert a.direct_server.sent[view.content] == b.direct.received[view.content] == 14_000

    asyncio.run(story())


@pytest.mark.parametrize(
    "wrong",
    [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-1], lambda data: data + b"x"],
)
def test_bytes_of_an_offer_that_are_not_right_are_asked_for(tmp_path, wrong):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed = await offered(w, TINY)
            asked = listening(b)
            await taken(a, b, view, replace(proposed, content=wrong(proposed.content)))
            assert asked == ["content"]
            data = b.stores["disk"].data(view.content)
            assert {path: (data / path).read_bytes() for path in TINY} == TINY

    asyncio.run(story())


def test_more_bytes_do_not_travel_with_an_offer_nor_those_of_a_set_that_is_not_to_go_direct(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, _, _, proposed = await offered(w)
            assert proposed.content == b""
            view = await create_set(a, ALICE, "tiny", TINY, replicas=0, methods=["bittorrent"])
            assert (await offer.make(a, a.shelf.known[view.id])).content == b""

    asyncio.run(story())


def test_who_makes_an_offer_and_is_not_known_any_more_is_met_by_nobody(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, view, proposed = await offered(w)
            holders = Meeting(node=b, set_id=view.id)
            holders.offered(Enclosed("f" * 32, proposed.joined, b""))
            assert not holders.agreed

    asyncio.run(story())

"""Of many receivers a few get a set's metadata with their offers, and hand it on to the others."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import NotFound
from cached.node import drive, handed_on, metadata
from hypothesis import given
from hypothesis import strategies as st
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
FILES = {"f": os.urandom(300_000), "dir/g": b"more", "empty": b""}


@pytest.fixture(autouse=True)
def one_is_told_first(monkeypatch):
    monkeypatch.setattr(handed_on, "_LITTLE", 0)
    monkeypatch.setattr(handed_on, "_FEWEST", 1)


@given(st.integers(0, 1 << 17), st.integers(1, 5000))
def test_much_metadata_goes_to_a_few_and_little_to_everybody(size, receivers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handed_on, "_LITTLE", 128 << 10)
        patch.setattr(handed_on, "_FEWEST", 4)
        first = handed_on.first(size, receivers)
    assert 1 <= first <= receivers
    if size * receivers <= 128 << 10:
        assert first == receivers
    else:
        assert first == min(receivers, 4) or first * first <= receivers


async def nodes(w):
    found = [await w.node(name) for name in "abcd"]
    view = await create_set(found[0], ALICE, "nr", FILES, replicas=3)
    await w.gossip()
    return *found, view


def asked_for_metadata(receivers) -> list[tuple[str, str]]:
    """Return a list that grows by who asks whom for metadata."""
    asked: list[tuple[str, str]] = []
    for node in receivers:

        def fetching(peer, stream, query, timeout, *, node=node, fetch=node.link.fetch):
            if stream == metadata.STREAM:
                asked.append((node.id, peer))
            return fetch(peer, stream, query, timeout)

        node.link.fetch = fetching
    return asked


def asked_while_driven(tmp_path, prepare=lambda _node: None) -> tuple[str, set[str], list[tuple[str, str]]]:
    """Return the source, the receivers, and who asked whom for metadata until all of them had the set."""

    async def story():
        async with world(tmp_path) as w:
            a, *others, view = await nodes(w)
            asked = asked_for_metadata(others)
            for node in others:
                prepare(node)
            await drive.look_after(a, a.shelf.known[view.id])
            for node in others:
                await until(lambda node=node: view.id not in node.transfers)
                assert node.shelf.replicas[view.id].state == "COMMITTED"
            return a.id, {node.id for node in others}, asked

    return asyncio.run(story())


def test_those_who_come_later_ask_those_who_have_it(tmp_path):
    _, receivers, asked = asked_while_driven(tmp_path)
    askers, givers = {one for one, _ in asked}, {peer for _, peer in asked}
    [first] = receivers - askers
    assert len(askers) == 2
    assert givers == {first}


def test_whoever_gets_nothing_from_those_who_were_named_asks_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_on, "_READY", 0.2)

    def gives_nothing(node) -> None:
        node.consents.allowed = lambda *_: False

    source, _, asked = asked_while_driven(tmp_path, gives_nothing)
    assert {peer for _, peer in asked} >= {source}


def test_nobody_waits_for_one_who_has_agreed_and_gives_its_metadata_in_drops(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_on, "_READY", 0.3)
    monkeypatch.setattr(metadata, "GRACE", 3600.0)

    def gives_drops(node) -> None:
        async def dropping(_peer, _query, writer):
            while True:
                await writer.write(b"{")
                await asyncio.sleep(1.0)

        node.link.stream(metadata.STREAM, dropping)

    source, _, asked = asked_while_driven(tmp_path, gives_drops)
    assert {peer for _, peer in asked} >= {source}


def test_nobody_waits_for_those_who_refuse_to_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_on, "_READY", 3600.0)

    async def refuses(*_):
        raise NotFound("not from me")

    source, _, asked = asked_while_driven(tmp_path, lambda node: node.link.handle("source.join", refuses))
    assert {peer for _, peer in asked} == {source}


def test_nobody_waits_for_one_who_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(handed_on, "ANSWER", 0.1)

    async def story():
        async with world(tmp_path) as w:
            a, *others, view = await nodes(w)
            asked, call, silent = asked_for_metadata(others), a.link.call, asyncio.Event()
            offers: list[str] = []

            async def calling(peer, method, body, timeout=10.0):
                if method == "offer.consider":
                    offers.append(peer)
                    if len(offers) == 1:
                        await silent.wait()
                return await call(peer, method, body, timeout)

            a.link.call = calling
            looking = asyncio.create_task(drive.look_after(a, a.shelf.known[view.id]))
            await until(lambda: len(offers) == 3)
            for node in others:
                if node.id != offers[0]:
                    await until(lambda node=node: view.id in node.shelf.replicas)
                    await until(lambda node=node: view.id not in node.transfers)
            assert asked == []
            silent.set()
            await looking

    asyncio.run(story())

"""Where each receiver gets a stream of its own, a few are asked at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from cached.node import drive, revise
from cached.replication import method
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
FILES = {"f": os.urandom(300_000)}
RECEIVERS = "bcdef"


class Offers:
    """The offers that a node makes; each goes on once it is let."""

    def __init__(self, node) -> None:
        self.made: list[str] = []
        self._call = node.link.call
        self._let: dict[str, asyncio.Event] = {}
        node.link.call = self._calling

    def let(self, node_id: str) -> None:
        """Have an offer considered."""
        self._let[node_id].set()

    async def _calling(self, peer, what, body, timeout=10.0):
        if what == "offer.consider":
            self.made.append(peer)
            self._let[peer] = asyncio.Event()
            await self._let[peer].wait()
        return await self._call(peer, what, body, timeout)


@contextlib.asynccontextmanager
async def offering(tmp_path):
    """The first of some nodes is offering a set to all the others: what is going on, the nodes, the set."""
    async with world(tmp_path) as w:
        nodes = [await w.node(name) for name in "a" + RECEIVERS]
        view = await create_set(nodes[0], ALICE, "nr", FILES, replicas=len(RECEIVERS))
        await w.gossip()
        offers = Offers(nodes[0])
        looking = asyncio.create_task(drive.look_after(nodes[0], nodes[0].shelf.known[view.id]))
        yield offers, looking, nodes, view


def driven(tmp_path, story) -> None:
    """Run a story of offers that are made; whoever is offered the set has it in the end."""

    async def whole() -> None:
        async with offering(tmp_path) as (offers, looking, (_, *others), view):
            await story(offers)
            for node_id in offers.made:
                offers.let(node_id)
            await looking
            for node in others:
                await until(lambda node=node: view.id in node.shelf.replicas)
                await until(lambda node=node: view.id not in node.transfers)
                assert node.shelf.replicas[view.id].state == "COMMITTED"

    asyncio.run(whole())


def test_the_next_is_asked_once_one_has_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "PATIENCE", 3600.0)

    async def story(offers: Offers) -> None:
        for asked in range(2, len(RECEIVERS) + 1):
            await until(lambda asked=asked: len(offers.made) == asked)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(offers.made) == asked
            offers.let(offers.made[asked - 2])

    driven(tmp_path, story)


def test_whoever_does_not_answer_keeps_nobody_from_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "PATIENCE", 0.01)

    async def story(offers: Offers) -> None:
        await until(lambda: len(offers.made) == len(RECEIVERS))

    driven(tmp_path, story)


def test_a_set_that_changes_meanwhile_is_offered_to_nobody_else_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "PATIENCE", 3600.0)

    async def story() -> None:
        async with offering(tmp_path) as (offers, looking, (a, *others), view):
            await until(lambda: len(offers.made) == drive.AT_ONCE)
            await revise.delete(a, ALICE, parse_ref("nr"), True, False)
            for node_id in offers.made:
                offers.let(node_id)
            await looking
            assert len(offers.made) == drive.AT_ONCE
            asked = [node.id for node in others if a.consents.allowed(node.id, view.content)]
            assert set(asked) <= set(offers.made)

    asyncio.run(story())


@pytest.mark.parametrize("shared", [True, False])
def test_those_who_share_a_set_are_all_asked_at_once(tmp_path, monkeypatch, shared):
    monkeypatch.setattr(drive, "PATIENCE", 3600.0)
    if shared:
        monkeypatch.setattr(method, "_WORTH", 0)
        monkeypatch.setattr(method, "_IN_ALL", 0)

    async def story(offers: Offers) -> None:
        at_once = len(RECEIVERS) if shared else drive.AT_ONCE
        await until(lambda: len(offers.made) == at_once)
        for left in offers.made[:]:
            offers.let(left)
        if not shared:
            for asked in range(at_once, len(RECEIVERS)):
                await until(lambda asked=asked: len(offers.made) > asked)
                offers.let(offers.made[asked])

    driven(tmp_path, story)

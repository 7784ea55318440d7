"""What a swarm is given of a content: its digests are made once, and kept."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.node import digests, seeding
from cached.sets.coarse import Coarse, coarse
from cached.sets.manifest import Manifest
from cached.storage.disk import Store
from tests.node.fakes import caller, create_set, world

ALICE = caller("alice")


def counted(monkeypatch) -> list[str]:
    read: list[str] = []
    leaves = Store.leaves

    def noted(self: Store, content: str) -> bytes:
        read.append(content)
        return leaves(self, content)

    monkeypatch.setattr(Store, "leaves", noted)
    return read


def test_the_leaves_of_a_content_are_read_once_for_its_swarm_and_after_a_restart_not_at_all(
    tmp_path, monkeypatch
):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", {"f": os.urandom(digests.COARSE_FROM), "g": b"small"})
            read = counted(monkeypatch)
            first = await seeding.lookup(node, view.content, 0)
            assert read == [view.content]
            assert isinstance(first.digests, Coarse)
            await w.crash("a")
            node = await w.node("a")
            again = await seeding.lookup(node, view.content, 1 << 20)
            assert read == [view.content]
            assert (again.digests, again.piece_size) == (first.digests, 1 << 20)
            assert first.digests == coarse(again.manifest, node.stores["disk"].leaves(view.content))

    asyncio.run(story())


@pytest.mark.parametrize("found", [b"", bytes(32), b"x" * 100])
def test_digests_that_a_crash_left_torn_are_made_again(tmp_path, monkeypatch, found):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", {"f": os.urandom(digests.COARSE_FROM)})
            first = await seeding.lookup(node, view.content, 0)
            (node.stores["disk"].home(view.content) / "coarse").write_bytes(found)
            read = counted(monkeypatch)
            assert await seeding.lookup(node, view.content, 0) == first
            assert read == [view.content]
            assert await seeding.lookup(node, view.content, 0) == first
            assert read == [view.content]

    asyncio.run(story())


def test_for_small_contents_and_small_pieces_the_leaves_are_taken(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            small = await create_set(node, ALICE, "small", {"f": b"x" * 100_000})
            large = await create_set(node, ALICE, "large", {"f": os.urandom(digests.COARSE_FROM)})
            store = node.stores["disk"]
            for content, piece in ((small.content, 0), (large.content, 16_384)):
                found = await seeding.lookup(node, content, piece)
                assert found.digests == store.leaves(content)
                assert isinstance(found.manifest, Manifest)
                assert store.coarse(content) is None

    asyncio.run(story())

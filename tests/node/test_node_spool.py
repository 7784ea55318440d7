"""Files without a name for what is on its way to Cloud Storage: reserved like everything else, and written down nowhere."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.errors import Busy, NoSpace
from cached.node.spool import spooled
from tests.node.fakes import NOTHING, left_behind, world

MIB = 1 << 20


def allocated(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def test_a_body_has_its_blocks_before_it_comes_and_gives_them_back(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            space = node.space
            async with spooled(node, "alice", 4 * MIB) as file:
                assert allocated(file.descriptor) >= 4 * MIB
                assert (space.reserved("disk"), space.free("disk")) == (4 * MIB, 6 * MIB)
                await file.make_room(6 * MIB)
                assert allocated(file.descriptor) >= 6 * MIB
                assert space.free("disk") == 4 * MIB
                assert node.catalog.read_now(lambda tx: tx.reservations()) == []
                with pytest.raises(NoSpace):
                    await file.make_room(11 * MIB)
                assert space.free("disk") == 4 * MIB
            assert space.free("disk") == 10 * MIB
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_a_body_that_does_not_fit_is_refused_before_there_is_a_file(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            with pytest.raises(NoSpace):
                async with spooled(node, "alice", 11 * MIB):
                    raise AssertionError("there is no room")
            assert node.space.free("disk") == 10 * MIB
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_many_bodies_at_once_never_take_more_than_there_is(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            in_it = asyncio.Event()
            count = 0

            async def one():
                nonlocal count
                async with spooled(node, "alice", 3 * MIB):
                    count += 1
                    await in_it.wait()

            tasks = [asyncio.create_task(one()) for _ in range(8)]
            done, _ = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 5:
                more, _ = await asyncio.wait(
                    set(tasks) - done, timeout=60, return_when=asyncio.FIRST_COMPLETED
                )
                done |= more
            assert all(isinstance(task.exception(), NoSpace) for task in done)
            assert node.space.reserved("disk") == 9 * MIB
            in_it.set()
            await asyncio.wait(set(tasks) - done)
            assert (count, node.space.free("disk")) == (3, 10 * MIB)

    asyncio.run(story())


def test_one_user_s_bodies_leave_room_for_the_others(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)
            async with (
                spooled(node, "alice", 4 * MIB, fairly=True),
                spooled(node, "alice", 3 * MIB, fairly=True),
            ):
                with pytest.raises(Busy, match="2 uploads that this user has under way"):
                    await spooled(node, "alice", 2 * MIB, fairly=True).__aenter__()
                async with spooled(node, "bob", 2 * MIB, fairly=True):
                    pass
            assert node.space.free("disk") == 10 * MIB

    asyncio.run(story())


def test_a_cancelled_body_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=10 * MIB)

            async def one():
                async with spooled(node, "alice", 3 * MIB) as file:
                    await file.make_room(4 * MIB)
                    await asyncio.Event().wait()

            for turns in range(8):
                task = asyncio.create_task(one())
                for _ in range(turns):
                    await asyncio.sleep(0.001 * turns)
                task.cancel()
                await asyncio.wait({task})
            assert node.space.free("disk") == 10 * MIB
            assert left_behind(node) == NOTHING

    asyncio.run(story())

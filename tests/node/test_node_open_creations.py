"""Creations that stay open: they hold space, so they come to an end, and one user's leave room for the others'."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from cached import wire
from cached.errors import Busy, NoSpace
from cached.leases import policy
from cached.node import create
from tests.node.fakes import NOTHING, caller, create_set, hand_over, left_behind, until, world

ALICE, BOB = caller("alice"), caller("bob")
MB = 1_000_000
OPTIONS = wire.CreateOptions()


async def begin(node, who, name, size=1000):
    return await create.begin(node, who, name, OPTIONS, size, 1)


def test_a_creation_to_which_nothing_comes_is_given_up(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            creation = await hand_over(node, ALICE, "left", {"f": b"bytes"})
            now = time.monotonic()
            await create.give_up_idle(node, now + create.PATIENCE - 60)
            assert len(node.creations) == 1
            await create.give_up_idle(node, now + create.PATIENCE + 60)
            assert left_behind(node) == NOTHING
            with pytest.raises(Busy):
                await creation.seal()

    asyncio.run(story())


def test_a_creation_is_never_given_up_while_bytes_are_copied_or_sealed(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            creation = await begin(node, ALICE, "slow")
            going_on, copied = asyncio.Event(), creation._copy

            async def slowly(*work):
                await going_on.wait()
                await copied(*work)

            monkeypatch.setattr(creation, "_copy", slowly)
            source = tmp_path / "f"
            source.write_bytes(b"bytes")
            entry = wire.NewEntry(path="f", kind="file", size=5)
            adding = asyncio.create_task(creation.add([entry], [os.open(source, os.O_RDONLY)]))
            await until(lambda: creation.idle(time.monotonic() + 1) == 0.0)
            await create.give_up_idle(node, time.monotonic() + 10 * create.PATIENCE)
            going_on.set()
            await adding
            assert (await creation.seal()).bytes == 5

    asyncio.run(story())


def test_one_user_has_so_many_creations_open_and_others_still_create(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            opened = [await begin(node, ALICE, f"s{number}") for number in range(policy.MOST_OPEN)]
            with pytest.raises(Busy):
                await begin(node, ALICE, "one-more")
            await create_set(node, BOB, "mine", {"f": b"bytes"})
            await opened.pop().abort()
            opened.append(await begin(node, ALICE, "one-more"))
            for creation in opened:
                await creation.abort()

    asyncio.run(story())


def test_open_creations_of_one_user_leave_half_of_the_space_to_the_others(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=300 * MB)
            asked = (begin(node, ALICE, f"s{number}", 20 * MB) for number in range(14))
            results = await asyncio.gather(*asked, return_exceptions=True)
            opened = [one for one in results if isinstance(one, create.Creation)]
            assert all(isinstance(one, Busy) for one in results if one not in opened)
            assert 1 < len(opened) < 10
            await (await begin(node, BOB, "mine", 100 * MB)).abort()
            for creation in opened:
                await creation.abort()
            assert left_behind(node) == NOTHING

    asyncio.run(story())


def test_one_creation_may_take_all_there_is_and_small_ones_go_beside_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=300 * MB)
            first = await begin(node, ALICE, "large", 250 * MB)
            second = await begin(node, ALICE, "small", 10 * MB)
            with pytest.raises(NoSpace):
                await begin(node, BOB, "too-large", 100 * MB)
            await first.abort()
            await second.abort()

    asyncio.run(story())


def test_what_has_expired_counts_as_space_that_is_left(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a", capacity=100 * MB)
            await create_set(node, BOB, "old", {"f": os.urandom(80 * MB)}, lease_seconds=60)
            w.clock.pass_(100)
            first = await begin(node, ALICE, "first", 8 * MB)
            second = await begin(node, ALICE, "second", 8 * MB)
            third = await begin(node, ALICE, "third", 8 * MB)
            for creation in (first, second, third):
                await creation.abort()

    asyncio.run(story())

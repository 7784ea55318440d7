"""Those who want requests to Cloud Storage take turns: one who wants many keeps nobody waiting."""

import asyncio
import random

import pytest
from cached.addresses import Address
from cached.origin.crc import crc32c
from cached.origin.gcs import Gcs
from cached.origin.turns import Turns
from cached.origin.values import Pinned
from tests.origin import worlds


def play(story):
    asyncio.run(asyncio.wait_for(story(), 30))


async def breathe(rounds=5):
    for _ in range(rounds):
        await asyncio.sleep(0)


def test_who_wants_one_turn_has_the_next_whatever_others_wait_for():
    async def story():
        turns, done = Turns(2), []

        async def work(who):
            async with turns.turn(who):
                await breathe(1)
                done.append(who)

        many = [asyncio.create_task(work("many")) for _ in range(100)]
        await breathe(3)
        before = len(done)
        await work("one")
        assert len(done) - before <= 4
        await asyncio.gather(*many)
        assert len(done) == 101

    play(story)


def test_nobody_has_all_turns_where_each_has_a_share():
    async def story():
        turns, over, having = Turns(4, 3), asyncio.Event(), 0

        async def hold():
            nonlocal having
            async with turns.turn("hangs"):
                having += 1
                await over.wait()

        held = [asyncio.create_task(hold()) for _ in range(50)]
        await breathe()
        assert having == 3
        async with turns.turn(None):
            pass
        over.set()
        await asyncio.gather(*held)
        assert having == 50

    play(story)


def test_one_alone_is_served_in_the_order_of_asking():
    async def story():
        turns, order = Turns(1), []

        async def work(number):
            async with turns.turn("me"):
                order.append(number)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert order == list(range(20))

    play(story)


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_is_lost_whoever_gives_up_waiting_at_whatever_moment(seed):
    dice = random.Random(seed)

    async def story():
        turns, under_way, most = Turns(3, 2), 0, 0

        async def work(who):
            nonlocal under_way, most
            async with turns.turn(who):
                under_way += 1
                most = max(most, under_way)
                try:
                    await breathe(dice.randrange(4))
                finally:
                    under_way -= 1

        tasks = []
        for _ in range(300):
            tasks.append(asyncio.create_task(work(dice.choice("abc"))))
            if dice.random() < 0.5:
                dice.choice(tasks).cancel()
            await breathe(dice.randrange(3))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 3
        assert turns._free == 3
        assert not turns._waiting
        assert not turns._having

    play(story)


def test_a_user_s_thousand_reads_keep_no_other_user_waiting(gcs):
    gcs.tokens.update({"a": "ada", "b": "bob"})
    data = bytes(1 << 20)
    generation = gcs.put("b", "o", data)
    there = Pinned("b", "o", generation, len(data), crc32c(data))
    gcs.rate = 20e6
    origin = Gcs(threads=4)

    async def story():
        assert (await origin.stat(Address("b", "o"), token="b")).generation == generation
        many = [asyncio.create_task(origin.read(there, 0, 1 << 20, token="a")) for _ in range(60)]
        await asyncio.sleep(0.2)
        await origin.read(there, 0, 1 << 20, token="b")
        assert sum(task.done() for task in many) < 20
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)

    worlds.play(origin, story)

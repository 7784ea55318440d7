"""Work that begins a few at a time."""

from __future__ import annotations

import asyncio

from cached.node.parallel import begin_each
from hypothesis import given
from hypothesis import strategies as st

FOREVER = 3600.0


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Works:
    """Pieces of work that end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ends: dict[int, asyncio.Future[int]] = {}

    def begin(self, item: int) -> asyncio.Task[int]:
        self.begun.append(item)
        self.ends[item] = asyncio.get_running_loop().create_future()
        return asyncio.create_task(self._work(item))

    async def _work(self, item: int) -> int:
        return await self.ends[item]


@given(st.integers(1, 8), st.integers(1, 4), st.data())
def test_so_many_are_under_way_and_one_more_begins_whenever_one_has_ended(count, width, data):
    async def story() -> None:
        works = Works()
        beginning = asyncio.create_task(begin_each(range(count), works.begin, width=width, patience=FOREVER))
        await settled()
        left = set(range(count))
        for ended in range(count):
            assert works.begun == list(range(min(count, width + ended)))
            one = data.draw(st.sampled_from(sorted(left & set(works.begun))))
            left.remove(one)
            works.ends[one].set_result(one)
            await settled()
        assert [task.result() for task in await beginning] == list(range(count))

    asyncio.run(story())


def test_nobody_waits_any_longer_for_those_who_do_not_end():
    async def story() -> None:
        works = Works()
        begun = await begin_each(range(7), works.begin, width=2, patience=0.01)
        assert works.begun == list(range(7))
        assert not any(task.done() for task in begun)
        for task in begun:
            task.cancel()

    asyncio.run(story())


def test_whoever_does_not_end_keeps_no_place_however_often_others_do():
    async def story() -> None:
        going, most = 0, 0

        async def work(item: int) -> None:
            nonlocal going, most
            if item == 0:
                await asyncio.Event().wait()
            going += 1
            most = max(most, going)
            await asyncio.sleep(0.02)
            going -= 1

        begun = await begin_each(
            range(12), lambda item: asyncio.create_task(work(item)), width=2, patience=0.05
        )
        assert most >= 2
        begun[0].cancel()
        await asyncio.wait(begun)

    asyncio.run(story())


def test_whoever_fails_makes_room_for_the_next_one():
    async def story() -> None:
        works = Works()
        beginning = asyncio.create_task(begin_each(range(2), works.begin, width=1, patience=FOREVER))
        await settled()
        works.ends[0].set_exception(ValueError("broken"))
        await settled()
        assert works.begun == [0, 1]
        failed, other = await beginning
        assert isinstance(failed.exception(), ValueError)
        other.cancel()

    asyncio.run(story())

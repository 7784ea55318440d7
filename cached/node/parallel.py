"""Many pieces of work, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from cached.critical import to_the_end

Item = TypeVar("Item")
Result = TypeVar("Result")


async def each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], *, width: int) -> None:
    """Do `work` for every item, `width` at a time. The first error ends the rest and is raised; so does a cancellation.

    Nothing runs any more when this returns.
    """
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(width)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await to_the_end(_ended(tasks))
    for task in tasks:
        if not task.cancelled():
            task.result()


async def begin_each(
    items: Iterable[Item], begin: Callable[[Item], asyncio.Task[Result]], *, width: int, patience: float
) -> list[asyncio.Task[Result]]:
    """Begin work on every item: the next one once fewer than `width` are under way that have been for less than
    `patience` seconds.

    Return all that has begun, in the order of the items; some of it is still under way.
    """
    clock = asyncio.get_running_loop().time
    begun: list[asyncio.Task[Result]] = []
    awaited: dict[asyncio.Task[Result], float] = {}  # until when, the first to lapse first
    for item in items:
        while len(awaited) >= width:
            oldest, until = next(iter(awaited.items()))
            ended, _ = await asyncio.wait(
                awaited, timeout=max(0.0, until - clock()), return_when=asyncio.FIRST_COMPLETED
            )
            for one in ended or {oldest}:
                del awaited[one]
        begun.append(begin(item))
        awaited[begun[-1]] = clock() + patience
    return begun


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:  # looked at, or asyncio logs the errors of what was cancelled as overlooked
        if not task.cancelled():
            task.exception()

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
    """Begin work on every item, `width` at a time: the next one once one has ended, or none has for `patience` seconds.

    Return all that has begun, in the order of the items; some of it is still under way.
    """
    begun: list[asyncio.Task[Result]] = []
    awaited: set[asyncio.Task[Result]] = set()
    for item in items:
        if len(awaited) >= width:
            ended, awaited = await asyncio.wait(
                awaited, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                awaited = set()
        begun.append(begin(item))
        awaited.add(begun[-1])
    return begun


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:  # looked at, or asyncio logs the errors of what was cancelled as overlooked
        if not task.cancelled():
            task.exception()

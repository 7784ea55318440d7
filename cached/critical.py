"""Steps that are never left half done: a cancellation is heard only once they have come to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T], late: Callable[[T], object] = lambda _: None) -> T:
    """Run `work` to its end and return its result; when the caller is cancelled meanwhile, raise that afterwards.

    The result, which nobody takes then, goes to `late`.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and task.exception() is None:
        late(task.result())
    raise cancelled


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose result nobody wants any more, and wait until it has ended."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()

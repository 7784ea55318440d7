"""Work in threads that is finished, or undone, also when nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def undisturbed(
    call: Callable[[], _T],
    late: Callable[[_T], object],
    failed: Callable[[], object] = lambda: None,
) -> _T:
    """Run `call` in a thread and return its result, or raise what it raised after `failed`.

    A thread cannot be stopped: who is cancelled meanwhile leaves at once, and the result goes to `late`.
    """
    task = asyncio.ensure_future(asyncio.to_thread(call))

    def finish(done: asyncio.Future[_T]) -> None:
        if done.cancelled() or done.exception() is not None:
            failed()
        else:
            late(done.result())

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(finish)
        raise
    except BaseException:
        failed()
        raise

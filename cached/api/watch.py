"""Waiting for long work while telling a client that it is still going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")

#: Shortest time between two reports to one client, in seconds.
REPORT_EVERY: Final = 0.2
#: Longest silence while work goes on, in seconds; clients give up after more.
HEARTBEAT: Final = 5.0


async def watch(
    task: asyncio.Future[Result], tell: Callable[[], None], *, every: float, cancel: bool = True
) -> Result:
    """Wait for `task`, calling `tell` now and then; when the wait is cancelled, the task ends too unless
    `cancel` is off.
    """
    try:
        while not (await asyncio.wait({task}, timeout=every))[0]:
            tell()
    except asyncio.CancelledError:
        if cancel:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at: nobody is left to be told
        raise
    return task.result()

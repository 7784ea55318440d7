"""Waiting for long work while telling a client that it is still going on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from cached import wire
from cached.origin.waiting import Waiting, followed

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


def begun(work: Awaitable[Result], waiting: Waiting) -> asyncio.Future[Result]:
    """Begin work as a task that tells `waiting` why it waits for Cloud Storage."""
    with followed(waiting):
        return asyncio.ensure_future(work)


def explained(progress: wire.Progress, waiting: Waiting) -> wire.Progress:
    """Return a report with why the work waits, where it does not say so itself."""
    if progress.reason or not waiting.reason:
        return progress
    return msgspec.structs.replace(progress, reason=waiting.reason)

"""Long work over HTTP: lines of JSON, progress first, the result or the error last.

Whoever goes away stops watching; the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cached import wire
from cached.api.failures import in_words
from cached.api.verbs import Report
from cached.api.watch import HEARTBEAT, REPORT_EVERY, begun, explained
from cached.errors import CachedError
from cached.origin.waiting import Waiting

log = logging.getLogger(__name__)


class Works:
    """Work that was begun for a client and may outlive its connection."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    async def run(self, request: web.Request, work: Callable[[Report], Awaitable[Any]]) -> web.StreamResponse:
        """Begin `work` and answer with its lines; what fails before the first line is an ordinary error."""
        watched = _Watched()
        task = begun(work(watched.report), watched.waiting)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await watched.news(task, HEARTBEAT)
        if task.done() and task.exception() is not None:
            await task
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            while not task.done():
                await response.write(watched.line())
                await asyncio.wait({task}, timeout=REPORT_EVERY)
                await watched.news(task, HEARTBEAT)
            await response.write(_last_line(task))
            await response.write_eof()
        except ConnectionError:
            log.debug("request.unwatched path=%s", request.path)
        return response

    async def close(self) -> None:
        """Cancel what still runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CachedError):
            log.error("work.failed", exc_info=error)


class _Watched:
    """The newest report of some work; older ones need not be sent, reports are cumulative."""

    def __init__(self) -> None:
        self._latest = wire.Progress()
        self.waiting = Waiting()
        self._changed = asyncio.Event()

    def report(self, progress: wire.Progress) -> None:
        self._latest = progress
        self._changed.set()

    async def news(self, task: asyncio.Future[Any], timeout: float) -> None:
        """Wait for a report, the end of the work, or `timeout` seconds."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({task, changed}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def line(self) -> bytes:
        self._changed.clear()
        return wire.encode({"progress": explained(self._latest, self.waiting)}) + b"\n"


def _last_line(task: asyncio.Future[Any]) -> bytes:
    error = CachedError("the daemon stops") if task.cancelled() else task.exception()
    if error is None:
        return wire.encode({"result": task.result()}) + b"\n"
    if not isinstance(error, CachedError):
        error = in_words(error)
    return wire.encode(error.to_wire()) + b"\n"

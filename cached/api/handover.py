"""One creation on a `data.sock` connection: create, then add, add, ..., then seal.

A failure ends the creation: whatever the client had already sent after it gets the same error, so that a
pipelining client learns the true reason from whichever answer it reads first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from cached import wire
from cached.api.requests import VERSION, Request
from cached.api.verbs import Creation, Verbs
from cached.api.watch import HEARTBEAT, REPORT_EVERY, begun, explained, watch
from cached.errors import CachedError, UsageError
from cached.node.caller import Caller
from cached.origin.waiting import Waiting

Result = TypeVar("Result")


class Handover:
    """The creation that a connection has under way, if any."""

    def __init__(
        self,
        verbs: Verbs,
        caller: Caller,
        tell: Callable[[dict[str, Any]], None],
        discard: Callable[[Sequence[int]], None],
    ) -> None:
        self._discard = discard
        self._verbs = verbs
        self._caller = caller
        self._tell = tell
        self._creation: Creation | None = None
        self._sealing: asyncio.Future[wire.SetView] | None = None
        self._failure: CachedError | None = None
        self._waiting = Waiting()
        self._wants_progress = False
        self._wanted = 0
        self._told: tuple[float, int, int] = (0.0, 0, 0)

    async def create(self, request: Request) -> dict[str, Any]:
        """Begin; returns the reply with the lease granted."""
        if self._creation is not None:
            raise UsageError("this connection is already creating a set", hint="seal it, or use another one")
        self._failure = None
        self._wants_progress, self._wanted = request.progress, request.bytes
        creation = self._creation = await self._begin(request)
        grant = creation.grant
        return {
            "v": VERSION,
            "ok": True,
            "creation": creation.txid,
            "lease_seconds": grant.seconds,
            "shortened": grant.shortened,
            "reason": grant.reason,
            "bundle_bytes": wire.BUNDLE_BYTES,
        }

    async def add(self, request: Request, descriptors: list[int]) -> dict[str, Any]:
        """Copy one packet of entries; owns the descriptors."""
        try:
            creation = self._current()
            own = sum(entry.kind == "file" and not entry.bundled for entry in request.entries)
            if own + any(entry.bundled for entry in request.entries) != len(descriptors):
                raise UsageError(
                    f"{len(descriptors)} descriptors came with {own} files",
                    hint="attach one for all bundled entries, then one for every other entry of kind file, in order",
                )
        except BaseException:
            self._discard(descriptors)
            raise
        await self._run(creation.add(request.entries, descriptors))
        return {"v": VERSION, "ok": True, "bytes_done": creation.bytes_done}

    async def _begin(self, request: Request) -> Creation:
        """Begin, which may take long when the origin has to be asked; nobody is left with a creation that he left."""
        options = request.options or wire.CreateOptions()
        work = begun(
            self._verbs.begin(self._caller, request.name, options, request.bytes, request.files),
            self._waiting,
        )
        try:
            return await watch(work, self._report, every=REPORT_EVERY)
        except asyncio.CancelledError:
            if work.done() and not work.cancelled() and work.exception() is None:
                await work.result().abort()
            raise

    async def draw(self) -> dict[str, Any]:
        """Bring the bytes of a set that is made of what the origin has."""
        creation = self._current()
        self._wanted = creation.bytes_wanted
        await self._run(creation.draw())
        return {"v": VERSION, "ok": True, "bytes_done": creation.bytes_done}

    async def seal(self) -> dict[str, Any]:
        """Commit; returns the reply with the set once the origin has it too, where that was asked for."""
        creation = self._current()
        await self._run(creation.ahead())
        self._sealing = begun(creation.seal(), self._waiting)
        await watch(self._sealing, self._report, every=REPORT_EVERY, cancel=False)
        self._sealing = None  # from here on leaving changes nothing
        view = await self._run(creation.kept())
        self._creation = None
        return {"v": VERSION, "ok": True, "set": view}

    async def fail(self, error: CachedError) -> None:
        """Give up what was begun, because of `error`."""
        creation, self._creation = self._creation, None
        if creation is not None:
            self._failure = error
            self._sealing = None
            await creation.abort()

    @property
    def busy(self) -> bool:
        """Whether `leave` has anything to do."""
        return self._creation is not None or self._sealing is not None

    async def leave(self) -> None:
        """The client is gone: a seal under way runs to its end, anything less is removed."""
        if self._sealing is not None:
            await asyncio.wait({self._sealing})
            if self._sealing.exception() is None:
                return
        creation, self._creation = self._creation, None
        if creation is not None:
            await creation.abort()

    def _current(self) -> Creation:
        if self._creation is not None:
            return self._creation
        raise self._failure or UsageError("this connection is not creating a set", hint="send create first")

    async def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await watch(begun(work, self._waiting), self._report, every=REPORT_EVERY)

    def _report(self) -> None:
        """Send an interim packet when something moved, and once in a while when nothing did."""
        if not self._wants_progress:
            return
        progress = explained(self._progress(), self._waiting)
        now = time.monotonic()
        at, *before = self._told
        if before == [progress.bytes_present, progress.files_done] and now - at < HEARTBEAT:
            return
        self._told = (now, progress.bytes_present, progress.files_done)
        self._tell({"v": VERSION, "progress": progress})

    def _progress(self) -> wire.Progress:
        creation = self._creation
        if creation is None:
            return wire.Progress(state="LISTING")
        return creation.upload or wire.Progress(
            bytes_present=creation.bytes_done,
            bytes_wanted=self._wanted,
            files_done=creation.files_done,
            state="SEALING" if self._sealing else "COPYING",
        )

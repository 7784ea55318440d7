"""Objects on one `data.sock` connection: descriptors of copies handed out, files taken in to be written."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from cached import wire
from cached.addresses import Address
from cached.api.attest import attests_of, hash_of_file
from cached.api.objects import objects_of
from cached.api.requests import VERSION, Request, address
from cached.api.verbs import OpenedObject, Report, Verbs
from cached.api.watch import HEARTBEAT, REPORT_EVERY, begun, explained, watch
from cached.errors import Busy, UnsupportedFile, UsageError
from cached.kinds import is_regular
from cached.node.caller import Caller
from cached.node.objects import PutOptions
from cached.origin.waiting import Waiting

Result = TypeVar("Result")

#: Copies that one connection may keep pinned at a time.
MOST_PINS: Final = 65_536


class Exchange:
    """What a connection has of objects; `hand_out` sends a packet with descriptors, which it closes."""

    def __init__(
        self,
        verbs: Verbs,
        caller: Caller,
        hand_out: Callable[[bytes, Sequence[int]], None],
        tell: Callable[[dict[str, Any]], None],
        discard: Callable[[Sequence[int]], None],
    ) -> None:
        self._discard = discard
        self._verbs = verbs
        self._caller = caller
        self._hand_out = hand_out
        self._tell = tell
        self._pins: set[str] = set()

    def open_now(self, request: Request) -> bool:
        """Answer at once if the copy is here and nobody need be asked; else False. Raises `Busy` for too many pins."""
        self._check_room()
        wanted, token = self._asked(request)
        opened = objects_of(self._verbs).open_now(self._caller, wanted, token, request.scope)
        if opened is None:
            return False
        self._give(opened)
        opened.count()
        return True

    async def open(self, request: Request) -> None:
        """Answer with a descriptor, or with the advice to read through. A fetch that nobody waits for any more ends."""
        self._check_room()
        wanted, token = self._asked(request)
        reports = _Reports(request, self._tell)
        work = reports.begin(
            objects_of(self._verbs).open(
                self._caller,
                wanted,
                token=token,
                scope=request.scope,
                keep=request.keep,
                progress=reports.note,
            )
        )
        try:
            await watch(work, reports.tell, every=HEARTBEAT)
        finally:
            if work.done() and not work.cancelled() and work.exception() is None:
                self._give(work.result())

    async def put(self, request: Request, descriptors: list[int]) -> dict[str, Any]:
        """Write the file behind the one descriptor; owns the descriptors. Leaving gives it up."""
        try:
            wanted, token = self._asked(request)
            if wanted.generation is not None:
                raise UsageError(
                    f"{wanted}: a new generation gets its number from Cloud Storage",
                    hint="if_generation is the one that must be there before",
                )
            _check(descriptors)
            reports = _Reports(request, self._tell)
            options = PutOptions(
                if_generation=request.if_generation,
                content_type=request.content_type,
                metadata=request.metadata,
                scope=request.scope,
            )
            work = reports.begin(
                objects_of(self._verbs).put(
                    self._caller, wanted, descriptors[0], token, options, reports.note
                )
            )
            view = await watch(work, reports.tell, every=HEARTBEAT)
        finally:
            self._discard(descriptors)
        return {"v": VERSION, "ok": True, "object": view}

    async def attest(self, request: Request, descriptors: list[int]) -> dict[str, Any]:
        """Say in the node's name that this user dumps the bytes behind the one descriptor to that address."""
        try:
            wanted = address(request.address)
            verbs = attests_of(self._verbs)
            _check(descriptors)
            reports = _Reports(request, self._tell)
            work = reports.begin(self._hash(descriptors[0], reports.note))
            sha256 = await watch(work, reports.tell, every=HEARTBEAT)
        finally:
            self._discard(descriptors)
        return {"v": VERSION, "ok": True, "statement": verbs.sign(self._caller, sha256, wanted)}

    async def _hash(self, descriptor: int, report: Report) -> str:
        size = await self._by_hand(lambda: os.fstat(descriptor).st_size)  # the file system may not answer
        return await hash_of_file(descriptor, size, report, self._by_hand)

    async def _by_hand(self, call: Callable[[], int]) -> int:
        return await attests_of(self._verbs).read(self._caller.user, lambda _: call())

    def give_back(self, pin: str) -> bool:
        """Let go of what was opened under that pin; say whether there was such a thing."""
        if pin not in self._pins:
            return False
        self._pins.remove(pin)
        objects_of(self._verbs).release(pin)
        return True

    def leave(self) -> None:
        """Let go of everything."""
        for pin in tuple(self._pins):
            self.give_back(pin)

    def _check_room(self) -> None:
        if len(self._pins) >= MOST_PINS:
            raise Busy(
                f"this connection keeps {MOST_PINS} objects open", hint="close some, or use another one"
            )

    def _asked(self, request: Request) -> tuple[Address, str]:
        return address(request.address), wire.checked_token(request.token)

    def _give(self, opened: OpenedObject) -> None:
        if opened.pin:
            self._pins.add(opened.pin)
        through = opened.fd < 0
        reply = wire.ObjectReply(
            object=opened.view, pin=opened.pin, tier=opened.tier, size=opened.view.size, through=through
        )
        self._hand_out(wire.encode(reply), () if through else (opened.fd,))


class _Reports:
    """Passes on how far the work is, not more often than a person can read, if the client asked for it."""

    def __init__(self, request: Request, tell: Callable[[dict[str, Any]], None]) -> None:
        self._wanted = request.progress
        self._tell = tell
        self._latest = wire.Progress(state="REQUESTED")
        self._waiting = Waiting()
        self._told = -REPORT_EVERY
        self._loop = asyncio.get_running_loop()

    def begin(self, work: Awaitable[Result]) -> asyncio.Future[Result]:
        """Begin the work, and follow why it waits."""
        return begun(work, self._waiting)

    def note(self, progress: wire.Progress) -> None:
        """Take a report of the work."""
        if progress != self._latest:
            self._latest = progress
            if self._loop.time() - self._told >= REPORT_EVERY:
                self.tell()

    def tell(self) -> None:
        """Send the latest report."""
        if self._wanted:
            self._told = self._loop.time()
            self._tell({"v": VERSION, "progress": explained(self._latest, self._waiting)})


def _check(descriptors: list[int]) -> None:
    """Refuse what is not one file with a beginning and an end that the daemon may read."""
    if len(descriptors) != 1:
        raise UsageError(
            f"{len(descriptors)} descriptors came with put", hint="attach the file, and nothing else"
        )
    if not is_regular(descriptors[0]):
        raise UnsupportedFile("that is no regular file", hint="write it to a file or to memory (memfd) first")
    flags = fcntl.fcntl(descriptors[0], fcntl.F_GETFL)
    if flags & os.O_ACCMODE == os.O_WRONLY or flags & os.O_PATH:
        raise UnsupportedFile("the file is not open for reading")

"""One client on `data.sock`: its requests answered in order, its pins held until it leaves.

The usual `open` is answered at once, in the callback that read it: no task, no await. Whatever takes longer
goes through a queue that one worker task empties in order. Reading stops while the client does not take its
answers, or has asked for too much at once; other clients never notice.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from cached import packets, wire
from cached.api.exchange import Exchange
from cached.api.failures import unexpected
from cached.api.handover import Handover
from cached.api.metrics import ApiMetrics
from cached.api.outbox import Outbox
from cached.api.requests import VERSION, Request, decode, target
from cached.api.verbs import Opened, Verbs
from cached.api.watch import HEARTBEAT, watch
from cached.errors import CachedError, UsageError
from cached.node.caller import Caller

#: Requests of one client that may wait; reading stops above.
MOST_WAITING: Final = 64
#: Descriptors that one client's waiting requests may hold; reading stops above.
MOST_HELD: Final = 1024

#: Requests that one client is answered in a row before others have their turn.
_IN_A_ROW: Final = 16

#: Operations that are answered in the callback when nothing waits before them.
_QUICK: Final = ("open", "object", "close")
_DONE: Final = wire.encode({"v": VERSION, "ok": True})


class Connection:
    """A connected client; lives in the event loop, from `start` to `close`."""

    def __init__(
        self,
        connection: socket.socket,
        caller: Caller,
        verbs: Verbs,
        *,
        metrics: ApiMetrics,
        expect: Callable[[], None],
        left: Callable[[Connection], None],
        hold: Callable[[int], None],
        discard: Callable[[Sequence[int]], None],
        overdue: Callable[[], bool],
    ) -> None:
        self.caller = caller
        self._socket = connection
        self._verbs = verbs
        self._metrics = metrics
        self._expect = expect
        self._left = left
        #: Counts descriptors for all connections of the user; raises `Busy` above the user's share.
        self._hold = hold
        #: Closes what the client sent, which may take for ever.
        self._discard = discard
        #: Says whether too much of what this user sent is not closed yet.
        self._overdue = overdue
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(connection, self._regulate, self.close)
        self._waiting: deque[tuple[Request | CachedError, list[int]]] = deque()
        self._held = 0
        self._worker: asyncio.Task[None] | None = None
        self._handover = Handover(verbs, caller, self._tell, discard)
        self._exchange = Exchange(verbs, caller, self._outbox.send, self._tell, discard)
        #: By set id: one pin a set, however often the client opens it.
        self._pins: dict[str, Any] = {}
        self._reading = False
        self._open = True

    def start(self) -> None:
        """Begin to read: mostly the first request is there before the connection is accepted."""
        self._regulate()
        self._readable()

    def close(self) -> None:
        """End the conversation as when the client leaves; `left` is called, and then `settle` has the rest to
        do.
        """
        if not self._open:
            return
        self._open = False
        self._stop_reading()
        self._outbox.close()
        self._socket.close()
        if self._worker is not None:
            self._worker.cancel()
        for _, descriptors in self._waiting:
            self._discard(descriptors)
        self._waiting.clear()
        self._hold(-self._held)
        self._held = 0
        self._left(self)

    def settled(self, *, keep_pins: bool) -> bool:
        """Do all that `settle` does, if that takes no waiting; return whether it was done."""
        if self._worker is not None or self._handover.busy:
            return False
        if not keep_pins:
            self._give_all_back()
        return True

    async def settle(self, *, keep_pins: bool) -> None:
        """After `close`: clean up a creation, and give the pins back unless the next daemon is to know."""
        if self._worker is not None:
            await asyncio.wait({self._worker})
        if not keep_pins:
            self._give_all_back()
        await self._handover.leave()

    def _give_all_back(self) -> None:
        for pin in self._pins.values():
            self._verbs.release(pin)
        self._pins.clear()
        self._exchange.leave()

    # Reading

    def _regulate(self) -> None:
        wanted = (
            self._open and not self._outbox and len(self._waiting) < MOST_WAITING and self._held < MOST_HELD
        )
        if wanted and not self._reading:
            self._reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)
        elif not wanted:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def _readable(self) -> None:
        """Answer what has come. A `close` that wants no answer is mostly followed by another request at once."""
        for _ in range(_IN_A_ROW):
            if not (self._reading and self._received()):
                return

    def _received(self) -> bool:
        """Take one packet; return whether another one may be there already."""
        started = time.perf_counter()
        packet = self._packet()
        if packet is None:
            return False
        try:
            request = decode(packet.data)
        except CachedError as error:
            self._take(error, packet.descriptors)
            return False
        if request.op in _QUICK and self._worker is None:
            if packet.descriptors:
                self._discard(packet.descriptors)
            if self._answered_now(request):
                self._expect()
                self._metrics.answered(request.op, time.perf_counter() - started)
                return not request.answer
            self._take(request, [])
        else:
            self._take(request, packet.descriptors)
        return False

    def _packet(self) -> packets.Packet | None:
        """Return what has come; None: nothing that is to be looked at."""
        try:
            packet = packets.receive(self._socket, self._discard)
        except (BlockingIOError, InterruptedError):
            return None
        except CachedError as error:
            self._take(error, [])
            return None
        except OSError:
            packet = None
        if packet is None:
            self.close()
        elif packet.descriptors and self._overdue():
            self._discard(packet.descriptors)
            self.close()
            return None
        return packet

    def _take(self, request: Request | CachedError, descriptors: list[int]) -> None:
        """Have a request answered in its turn."""
        try:
            self._hold(len(descriptors))
        except CachedError as error:
            self._discard(descriptors)
            request, descriptors = error, []
        self._waiting.append((request, descriptors))
        self._held += len(descriptors)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._regulate()

    def _answered_now(self, request: Request) -> bool:
        """Answer a request if that takes no waiting; return whether it was done."""
        op = request.op
        try:
            if op == "open":
                return self._open_now(request)
            if op == "object":
                return self._exchange.open_now(request)
            self._give_back(request)
        except CachedError as error:
            self._refuse(op, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, this client gets an answer and the others go on
            self._refuse(op, unexpected(op, error))
        return True

    def _open_now(self, request: Request) -> bool:
        opened = self._verbs.open_now(self.caller, *target(request.name, request.path))
        if opened is None:
            return False
        self._hand_out(opened)
        return True

    # Answering in order

    async def _work(self) -> None:
        while self._waiting:
            await self._outbox.drained()
            request, descriptors = self._waiting.popleft()
            self._held -= len(descriptors)
            self._hold(-len(descriptors))
            self._regulate()
            started = time.perf_counter()
            op = request.op if isinstance(request, Request) and request.op in _OPERATIONS else "other"
            try:
                await self._answer(request, descriptors)
            except CachedError as error:
                await self._failed(op, error)
            except Exception as error:  # noqa: BLE001 - as above
                await self._failed(op, unexpected(op, error))
            self._metrics.answered(op, time.perf_counter() - started)
        self._worker = None

    async def _answer(self, request: Request | CachedError, descriptors: list[int]) -> None:
        if isinstance(request, CachedError):
            self._discard(descriptors)
            raise request
        if request.op in _TAKING:
            take = {"add": self._handover.add, "put": self._exchange.put, "attest": self._exchange.attest}
            self._reply(await take[request.op](request, descriptors))
            return
        self._discard(descriptors)
        operation = _OPERATIONS.get(request.op)
        if operation is None:
            raise UsageError(f"there is no operation {request.op!r}", hint=f"one of {', '.join(_OPERATIONS)}")
        await operation(self, request)

    async def _open_path(self, request: Request) -> None:
        ref, path = target(request.name, request.path)
        latest = wire.Progress(state="REQUESTED")

        def note(progress: wire.Progress) -> None:
            nonlocal latest
            if progress != latest:
                latest = progress
                tell()

        def tell() -> None:
            if request.progress:
                self._tell({"v": VERSION, "progress": latest})

        work = asyncio.ensure_future(
            self._verbs.open_path(self.caller, ref, path, fetch=request.fetch, progress=note)
        )
        try:
            await watch(work, tell, every=HEARTBEAT)
        finally:
            if work.done() and not work.cancelled() and work.exception() is None:
                self._hand_out(work.result())

    def _give_back(self, request: Request) -> None:
        pin = self._pins.pop(request.set, None)
        if pin is not None:
            self._verbs.release(pin)
        else:
            self._exchange.give_back(request.set)
        if request.answer:
            self._outbox.send(_DONE)

    async def _close_set(self, request: Request) -> None:
        self._give_back(request)

    async def _object(self, request: Request) -> None:
        await self._exchange.open(request)

    async def _create(self, request: Request) -> None:
        self._reply(await self._handover.create(request))

    async def _draw(self, request: Request) -> None:
        self._reply(await self._handover.draw())

    async def _seal(self, request: Request) -> None:
        self._reply(await self._handover.seal())

    def _hand_out(self, opened: Opened) -> None:
        head = opened.set
        if head.id in self._pins:
            self._verbs.release(opened.pin)
        else:
            self._pins[head.id] = opened.pin
        reply = wire.OpenReply(set=head, kind=opened.kind, size=opened.size, executable=opened.executable)
        self._outbox.send(wire.encode(reply), (opened.fd,))

    async def _failed(self, op: str, error: CachedError) -> None:
        if op in (
            "add",
            "draw",
            "seal",
            "other",
        ):  # an entry may have been lost: what is left must not be sealed
            await self._handover.fail(error)
        self._refuse(op, error)

    def _refuse(self, op: str, error: CachedError) -> None:
        self._metrics.failed(op, error.code)
        self._reply({"v": VERSION, **error.to_wire()})

    def _tell(self, value: dict[str, Any]) -> None:
        """Send an interim packet, unless the client is behind: reports are cumulative."""
        if not self._outbox:
            self._reply(value)

    def _reply(self, value: dict[str, Any]) -> None:
        data = wire.encode(value)
        if len(data) > packets.MAX_PACKET:
            error = CachedError("the answer does not fit into one packet", hint="ask on api.sock instead")
            data = wire.encode({"v": VERSION, **error.to_wire()})
        self._outbox.send(data)


#: Operations that come with descriptors.
_TAKING: Final = ("add", "put", "attest")
_OPERATIONS: Final = {
    "open": Connection._open_path,
    "object": Connection._object,
    "put": None,
    "attest": None,
    "close": Connection._close_set,
    "create": Connection._create,
    "add": None,
    "draw": Connection._draw,
    "seal": Connection._seal,
}

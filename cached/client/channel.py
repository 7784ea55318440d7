"""One connection to `data.sock`: requests, answers, and the pins that last as long as it does."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from cached import packets, wire
from cached.client.endpoint import Endpoint
from cached.errors import CachedError, DaemonUnreachable, TimedOut

Watcher = Callable[[wire.Progress], None]
#: What comes with a descriptor.
Reply = wire.OpenReply | wire.ObjectReply
Answer = TypeVar("Answer", bound=Reply)


class LostError(Exception):
    """The daemon went away in mid-conversation; whether it did what was asked is not known."""


class Channel:
    """A conversation in order. Used by one thread at a time; only `release` may be called from anywhere."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._timeout = timeout
        self._socket = endpoint.connect("data.sock", socket.SOCK_SEQPACKET, timeout)
        self._pid = os.getpid()
        self._busy = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._released: deque[str] = deque()
        #: False once an answer was missed: what comes next could not be told apart from it.
        self.usable = True

    @property
    def pinning(self) -> bool:
        """Whether anything opened through this connection is still open."""
        return bool(self._pins)

    def open(
        self, request: dict[str, Any], kind: type[Answer], watcher: Watcher | None
    ) -> tuple[Answer, int]:
        """Ask for a descriptor, -1 where none is promised; what was opened stays pinned until as many `release` as
        `open` calls were made.
        """
        with self._busy:
            self._give_back()
            self.usable = False
            self.post(request)
            value, descriptors = self._answer(watcher)
            self.usable = True
            if "error" in value:
                packets.close_all(descriptors)
                raise CachedError.from_wire(value)
            reply = wire.convert(value, kind)
            if len(descriptors) != _promised(reply):
                packets.close_all(descriptors)
                raise CachedError("the daemon's answer came without a descriptor", hint="see its version")
            if pin_of(reply):
                self._pins[pin_of(reply)] += 1
        self._try_to_give_back()
        return reply, descriptors[0] if descriptors else -1

    def release(self, pin: str) -> None:
        """Let go of one open of a set or object; never blocks and never raises, so that finalizers may call it."""
        if pin and self._pid == os.getpid():
            self._released.append(pin)
            self._try_to_give_back()

    def close(self, *, abort: bool = False) -> None:
        """Close; with `abort` also for processes that were forked meanwhile and hold the connection too."""
        if abort:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def post(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send one request; raises `LostError`, or what the daemon said before it closed the connection."""
        data = wire.encode({"v": 1, **request})
        try:
            packets.send(self._socket, data, descriptors)
        except TimeoutError as error:
            raise self._timed_out() from error
        except ConnectionError as error:
            self._last_words()
            raise LostError from error

    def answer(self, watcher: Watcher | None = None) -> tuple[dict[str, Any], list[int]]:
        """Wait for the answer to the oldest request, reports before it go to `watcher`; raises its error."""
        value, descriptors = self._answer(watcher)
        if "error" in value:
            packets.close_all(descriptors)
            raise CachedError.from_wire(value)
        return value, descriptors

    def _answer(self, watcher: Watcher | None) -> tuple[dict[str, Any], list[int]]:
        while True:
            try:
                packet = packets.receive(self._socket)
            except TimeoutError as error:
                raise self._timed_out() from error
            except ConnectionError as error:
                self._last_words()
                raise LostError from error
            if packet is None:
                raise LostError
            value = msgspec.json.decode(packet.data)
            if "progress" not in value:
                return value, packet.descriptors
            if watcher is not None:
                watcher(wire.convert(value["progress"], wire.Progress))

    def _timed_out(self) -> TimedOut:
        return TimedOut(
            f"the daemon did not answer within {self._timeout:g} s", hint="look at its log, or try again"
        )

    def _last_words(self) -> None:
        """Raise the error that the daemon left before it closed, if there is one."""
        for _ in range(2):  # the first call may only report the broken connection
            with contextlib.suppress(OSError):
                packet = packets.receive(self._socket)
                value = msgspec.json.decode(packet.data) if packet else {}
                if "error" in value:
                    raise CachedError.from_wire(value)

    def _try_to_give_back(self) -> None:
        while self._released and self._busy.acquire(blocking=False):
            try:
                self._give_back()
            finally:
                self._busy.release()

    def _give_back(self) -> None:
        """Tell the daemon what is closed; it does not answer."""
        while self._released:
            pin = self._released.popleft()
            self._pins[pin] -= 1
            if self._pins[pin] <= 0:
                del self._pins[pin]
                self._unpin(pin)

    def _unpin(self, pin: str) -> None:
        if not self.usable:
            return
        try:
            self.post({"op": "close", "set": pin, "answer": False})
        except (LostError, OSError, CachedError):
            self.usable = False


def pin_of(reply: Reply) -> str:
    """Return what `release` names; empty when nothing is pinned."""
    return reply.set.id if isinstance(reply, wire.OpenReply) else reply.pin


def _promised(reply: Reply) -> int:
    return 0 if isinstance(reply, wire.ObjectReply) and reply.through else 1


@contextlib.contextmanager
def creating(channel: Channel, name: str) -> Iterator[None]:
    """Hold the conversation in which a set is made; however it ends, the connection is closed.

    Raises `DaemonUnreachable` when the daemon goes away meanwhile.
    """
    try:
        yield
    except LostError as error:
        raise DaemonUnreachable(
            f"the daemon went away before it had confirmed {name}",
            hint="once it runs, create the set again: if it was stored after all, nothing is stored twice",
        ) from error
    finally:
        channel.close(abort=True)

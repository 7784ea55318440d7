"""One connection to `data.sock`: requests, answers, and the pins that last as long as it does."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from cached import packets, wire
from cached.client.endpoint import Endpoint
from cached.errors import CachedError, DaemonUnreachable, TimedOut
from cached.vigil import Vigil

Watcher = Callable[[wire.Progress], None]
#: What comes with a descriptor.
Reply = wire.OpenReply | wire.ObjectReply
Answer = TypeVar("Answer", bound=Reply)

#: `struct timeval`.
_TIMEVAL: Final = struct.Struct("@ll")


class LostError(Exception):
    """The daemon went away in mid-conversation; whether it did what was asked is not known."""


class OpenRequest(msgspec.Struct, frozen=True, tag_field="op", tag="open"):
    """Asks for a file or directory of a set; see docs/wire.md."""

    name: str
    fetch: bool
    progress: bool = True
    v: int = 1


class ObjectRequest(msgspec.Struct, frozen=True, tag_field="op", tag="object"):
    """Asks for an object; see docs/wire.md."""

    address: str
    token: str
    scope: str
    keep: str
    progress: bool = True
    v: int = 1


class Channel:
    """A conversation in order. Used by one thread at a time; only `release` may be called from anywhere."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._timeout = timeout
        self._socket = endpoint.connect("data.sock", socket.SOCK_SEQPACKET, timeout)
        _wait_in_the_kernel(self._socket, timeout)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        #: Says whether an answer is there already.
        self._arrived = partial(poll.poll, 0)
        self._vigils = _FIRST
        self._pid = os.getpid()
        self._busy = threading.Lock()
        #: Opens by pin.
        self._pins: dict[str, int] = {}
        self._released: deque[str] = deque()
        #: False once an answer was missed: what comes next could not be told apart from it.
        self.usable = True

    @property
    def pinning(self) -> bool:
        """Whether anything opened through this connection is still open."""
        return bool(self._pins)

    def open(
        self, request: OpenRequest | ObjectRequest, kind: type[Answer], watcher: Watcher | None
    ) -> tuple[Answer, int]:
        """Ask for a descriptor, -1 where none is promised; what was opened stays pinned until as many `release` as
        `open` calls were made.
        """
        with self._busy:
            if self._released:
                self._give_back()
            self.usable = False
            self._send(wire.encode(request))
            reply, descriptors = self._opened(kind, watcher)
            if len(descriptors) != _promised(reply):
                packets.close_all(descriptors)
                raise CachedError("the daemon's answer came without a descriptor", hint="see its version")
            pin = pin_of(reply)
            if pin:
                self._pins[pin] = self._pins.get(pin, 0) + 1
        if self._released:
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
        self._send(wire.encode({"v": 1, **request}), descriptors)

    def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            packets.send(self._socket, data, descriptors)
        except BlockingIOError as error:
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
            packet = self._packet()
            value = msgspec.json.decode(packet.data)
            if "progress" not in value:
                return value, packet.descriptors
            _report(value, watcher)

    def _opened(self, kind: type[Answer], watcher: Watcher | None) -> tuple[Answer, list[int]]:
        """Wait for what was opened; the conversation may go on after that, and after an error of the daemon's."""
        decoder = _DECODERS[kind]
        self._vigils[kind].keep(self._arrived)
        self._vigils = _LATER
        while True:
            packet = self._packet()
            try:
                reply: Answer = decoder.decode(packet.data)
            except msgspec.ValidationError:
                value = msgspec.json.decode(packet.data)
            else:
                self.usable = True
                return reply, packet.descriptors
            packets.close_all(packet.descriptors)
            if "progress" in value:
                _report(value, watcher)
                continue
            self.usable = True
            if "error" in value:
                raise CachedError.from_wire(value)
            wire.convert(value, kind)

    def _packet(self) -> packets.Packet:
        try:
            packet = packets.receive(self._socket)
        except BlockingIOError as error:
            raise self._timed_out() from error
        except ConnectionError as error:
            self._last_words()
            raise LostError from error
        if packet is None:
            raise LostError
        return packet

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
            left = self._pins.get(pin, 0) - 1
            if left > 0:
                self._pins[pin] = left
            else:
                self._pins.pop(pin, None)
                self._unpin(pin)

    def _unpin(self, pin: str) -> None:
        if not self.usable:
            return
        try:
            self._send(wire.encode({"v": 1, "op": "close", "set": pin, "answer": False}))
        except (LostError, OSError, CachedError):
            self.usable = False


_DECODERS: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (wire.OpenReply, wire.ObjectReply)
}
#: For first answers on new connections, in seconds: the daemon has to find out who is calling.
_LONGER: Final = 0.000_4
#: By what is asked for: what comes from memory here may be asked of Cloud Storage there.
_FIRST: Final[dict[type[Any], Vigil]] = {kind: Vigil(_LONGER) for kind in _DECODERS}
_LATER: Final[dict[type[Any], Vigil]] = {kind: Vigil() for kind in _DECODERS}


def _report(value: dict[str, Any], watcher: Watcher | None) -> None:
    if watcher is not None:
        watcher(wire.convert(value["progress"], wire.Progress))


def _wait_in_the_kernel(connection: socket.socket, timeout: float) -> None:
    """Let the system calls themselves end after `timeout` seconds: Python would ask `poll` before each of them."""
    whole = int(timeout)
    limit = _TIMEVAL.pack(whole, max(1, int((timeout - whole) * 1e6)))
    connection.setblocking(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)


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

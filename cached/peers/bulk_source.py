"""The reading end of a stream for bulk (`cached.peers.bulk`), and connections that are kept for the next one.

A handshake costs both ends a few milliseconds of the processor, which is more than a small set does: a connection
whose stream has come to its end is kept for a while, and asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Final

import msgspec

from cached.budget import Budget
from cached.errors import CachedError, PeerUnreachable
from cached.peers import tls
from cached.peers.bulk import HELLO, MAX_LINE, undelayed
from cached.peers.route import split_address

#: Seconds after which a reader gets what has come, though it is less than it wants.
SETTLE: Final = 0.5
#: Seconds for which a connection is kept, less than the other end keeps it; how many, to one node and in all.
KEEP_SECONDS: Final = 45.0
EACH: Final = 2
MOST: Final = 64


class Turns:
    """A thread's turns in a budget that belongs to the event loop."""

    def __init__(self, budget: Budget, *, first: bool) -> None:
        self._budget = budget
        self._first = first
        self._loop = asyncio.get_running_loop()
        self._waiting: Future[int] | None = None
        self._free = True
        self._over = False

    def some(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be moved in it, none after `end`. Blocks."""
        self._free = self._budget.flows(first=self._first)
        if self._free:
            return most
        self._waiting = asyncio.run_coroutine_threadsafe(
            self._budget.some(most, first=self._first), self._loop
        )
        if self._over:
            self._waiting.cancel()
        try:
            return self._waiting.result()
        except CancelledError:
            return 0

    def moved(self, size: int) -> None:
        """Count what was moved, where no turn was waited for."""
        if self._free:
            self._loop.call_soon_threadsafe(self._budget.count, size)

    def end(self) -> None:
        """Let the thread that waits go; from any thread."""
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()


class Kept:
    """Connections that wait to be asked again; belongs to one event loop."""

    def __init__(self) -> None:
        #: In the order in which they were put here: node id, connection, since when.
        self._idle: list[tuple[str, ssl.SSLSocket, float]] = []
        self._closed = False

    def take(self, node_id: str) -> ssl.SSLSocket | None:
        """Return the connection to a node that was put here last, if there is one and the other end keeps it too."""
        self._tidy()
        for number in range(len(self._idle) - 1, -1, -1):
            if self._idle[number][0] == node_id:
                connection = self._idle.pop(number)[1]
                if not _has_news(connection):
                    return connection
                connection.close()
        return None

    def put(self, node_id: str, connection: ssl.SSLSocket) -> None:
        """Keep a connection whose stream has come to its end."""
        self._tidy()
        if self._closed or sum(one[0] == node_id for one in self._idle) >= EACH:
            connection.close()
            return
        self._idle.append((node_id, connection, time.monotonic()))

    def close(self) -> None:
        """Close all of them, and keep none any more."""
        self._closed = True
        while self._idle:
            self._idle.pop()[1].close()

    def _tidy(self) -> None:
        now = time.monotonic()
        while self._idle and (len(self._idle) >= MOST or now - self._idle[0][2] > KEEP_SECONDS):
            self._idle.pop(0)[1].close()


def _has_news(connection: ssl.SSLSocket) -> bool:
    """Tell whether something came on a connection on which nothing was asked: most likely its end."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


class BulkSource:
    """The bytes of a peer's stream: one thread reads and may wait, `stop` comes from any other."""

    def __init__(
        self,
        connection: ssl.SSLSocket,
        turns: Turns,
        size: int | None = None,
        keep: Callable[[ssl.SSLSocket], object] = ssl.SSLSocket.close,
        ask: Callable[[], ssl.SSLSocket] | None = None,
    ) -> None:
        """`keep` gets the connection once `size` bytes, all that the stream has, were read from it.

        `ask` is called by the thread that reads, before it does: it asks for the stream, and returns the connection on
        which that comes.
        """
        self._connection = connection
        self._turns = turns
        self._left = size
        self._keep = keep
        self._ask = ask
        self._stopped = False

    def read_into(self, buffer: memoryview) -> int:
        """Read until the buffer is full, or some time has passed; return how many bytes: none where the stream ends.

        Raises `TimeoutError` when nothing comes for a while, `PeerUnreachable` when the connection breaks, or the
        stream was refused.
        """
        if self._left is not None:
            buffer = buffer[: self._left]
        got, until = 0, time.monotonic() + SETTLE
        try:
            self._open()
            most = self._turns.some(len(buffer))
            read: Callable[[int, memoryview], int] = self._connection.read  # type: ignore[assignment]
            while got < most:
                more = read(most - got, buffer[got:most])
                got += more
                if not more or time.monotonic() > until:
                    break
            self._turns.moved(got)
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerUnreachable(f"the stream broke: {error.strerror or error}") from None
        if self._left is not None:
            self._left -= got
        return got

    def _open(self) -> None:
        ask, self._ask = self._ask, None
        if ask is not None:
            try:
                self._connection = ask()
            except CachedError as error:
                raise PeerUnreachable(error.message) from error
            if self._stopped:
                raise ConnectionAbortedError("it was stopped")

    def stop(self) -> None:
        """Let the thread that reads find the end of the stream."""
        self._turns.end()
        self._stopped = True
        if self._left == 0:
            return
        with contextlib.suppress(OSError):  # it has ended
            # `SSLSocket.shutdown` would have the reader take what is encrypted for the stream.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection; nobody reads any more."""
        if self._left == 0:
            self._left = None
            self._keep(self._connection)
        else:
            self._connection.close()


class Asking:
    """One question for a stream, on a connection that was kept or on a new one."""

    def __init__(
        self,
        context: ssl.SSLContext,
        address: str,
        node_id: str,
        stream: str,
        query: dict[str, Any],
        *,
        connect: float,
        stall: float,
        keep: bool,
    ) -> None:
        """To a node that listens at `address`, which may take `connect` seconds to be reached.

        `stall` is the longest wait for bytes, in seconds; `keep`: the connection is to stay when the stream has ended.
        """
        self._context = context
        self._address = address
        self._node_id = node_id
        request = {"stream": stream, "query": query} | ({"keep": True} if keep else {})
        self._line = msgspec.json.encode(request) + b"\n"
        self._connect = connect
        self._stall = stall

    def again(self, kept: ssl.SSLSocket) -> ssl.SSLSocket:
        """Ask on a connection that was kept, or on another one where the other end did not keep it; blocks.

        Return the one on which the stream comes; raises as `anew`.
        """
        try:
            return self._asked(kept)
        except TimeoutError:
            raise
        except (OSError, _EndedError):
            return self.anew()

    def anew(self) -> ssl.SSLSocket:
        """Ask on a new connection, and return it; blocks.

        Raises `OSError` where there is no way there, `PeerUnreachable` when it breaks off, and whatever the stream
        raised.
        """
        connection = socket.create_connection(split_address(self._address), self._connect)
        try:
            undelayed(connection)
            connection.sendall(HELLO)
            secured = self._context.wrap_socket(connection, server_hostname=tls.host_of(self._node_id))
        except BaseException:
            connection.close()
            raise
        return self._asked(secured)

    def _asked(self, connection: ssl.SSLSocket) -> ssl.SSLSocket:
        try:
            connection.settimeout(self._stall)
            connection.sendall(self._line)
            _check_answer(connection)
        except BaseException:
            connection.close()
            raise
        return connection


class _EndedError(PeerUnreachable):
    """The connection came to its end where an answer was to begin."""


def _check_answer(connection: ssl.SSLSocket) -> None:
    """Read the line before the bytes, and nothing of them; raise what it says."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        if not part or len(line) > MAX_LINE:
            raise _EndedError("the stream ended before it began")
        line += part
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise PeerUnreachable("the peer answered nonsense") from None
    if said:
        raise CachedError.from_wire(said)

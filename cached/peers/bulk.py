"""Streams of many bytes: each on a TLS connection of its own, moved by threads rather than by the event loop.

The same port, the same certificates, the same handlers as for streams over HTTP; what differs is who moves the bytes,
which costs less than two thirds of the processor's time. A connection begins with `HELLO`, in the clear, where TLS
would begin with another byte; then the handshake, one line of JSON that names stream and query, one line of JSON that
is empty or an error, and the bytes until the connection ends. The reader knows how many it wants.

Handshakes are done by the loop: a stranger occupies no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import msgspec

from cached.budget import Budget
from cached.critical import to_the_end
from cached.errors import CachedError, PeerUnreachable
from cached.peers import tls
from cached.peers.handlers import Handlers
from cached.peers.records import Peer
from cached.peers.route import split_address

#: How a connection for bulk begins; the first byte of TLS is 0x16.
HELLO: Final = b"cached bulk 1\n"
#: Longest line of a request, and of its answer, in bytes.
MAX_LINE: Final = 1 << 20
#: Seconds for the request to arrive, and until a reader that takes nothing is left.
REQUEST_SECONDS: Final = 5.0
SEND_SECONDS: Final = 30.0
#: Seconds after which a reader gets what has come, though it is less than it wants.
SETTLE: Final = 0.5
#: Threads that encrypt: more than there are processors would only wait for each other.
THREADS: Final = max(2, min(8, os.cpu_count() or 1))


async def wants_bulk(connection: socket.socket) -> bool:
    """Tell whether a connection that was just accepted is one for bulk; nothing is taken from it.

    Who is cancelled meanwhile finds it closed.
    """
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                return connection.recv(1, socket.MSG_PEEK) == HELLO[:1]
            await _ready(connection, writing=False)
    except BaseException:
        connection.close()
        raise


async def _ready(connection: socket.socket, *, writing: bool) -> None:
    """Wait until a socket can be read from, or written to."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(connection, _arrived, ready)
    try:
        await ready
    finally:
        remove(connection)


def _arrived(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class BulkServer:
    """The side that is dialled."""

    def __init__(self, context: ssl.SSLContext, handlers: Handlers, heard: Callable[[Peer], None]) -> None:
        self._context = context
        self._handlers = handlers
        self._heard = heard
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bulk")

    def close(self) -> None:
        """End the threads; all streams have ended."""
        self._threads.shutdown()

    async def shake(self, connection: socket.socket) -> ssl.SSLSocket:
        """Bring a connection through the handshake; it is closed, and `OSError` raised, when that fails."""
        try:
            if await _exactly(connection, len(HELLO)) != HELLO:
                raise ConnectionResetError("neither TLS nor a stream that this node knows")
            _undelayed(connection)
            secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except BaseException:
            connection.close()
            raise
        try:
            await _shaken(secured)
        except BaseException:
            secured.close()
            raise
        return secured

    async def serve(self, connection: ssl.SSLSocket) -> None:
        """Answer the one request of a connection, and close it."""
        writer = _BulkWriter(connection, self._threads)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                name, query = _asked(await _line(connection))
            peer = tls.peer_of(connection)
            self._heard(peer)
            try:
                await self._handlers.run_stream(peer, name, query, writer)
                await writer.begin()
            except CachedError as error:
                await writer.refuse(error)
        except (OSError, msgspec.MsgspecError):
            pass  # nobody is there to read it
        finally:
            connection.close()


class _BulkWriter:
    """Sends a stream's bytes; errors before the first of them keep their type."""

    def __init__(self, connection: ssl.SSLSocket, threads: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._threads = threads
        self._begun = False

    def length(self, total: int) -> None:
        """Nothing: the reader knows how many bytes it wants."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; they may be changed afterwards."""
        await self.begin()
        await self._send(data)

    async def begin(self) -> None:
        """Say that the stream is there, unless that has been said."""
        if not self._begun:
            self._begun = True
            await self._send(b"{}\n")

    async def refuse(self, error: CachedError) -> None:
        """Say why there is no stream; one that has begun just ends before its time."""
        if not self._begun:
            self._begun = True
            await self._send(msgspec.json.encode(error.to_wire(), enc_hook=str) + b"\n")

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        loop = asyncio.get_running_loop()
        while left:
            # A thread that still writes must not find the descriptor closed, or another's.
            step = partial(loop.run_in_executor, self._threads, _send_some, self._connection, left)
            left = left[await to_the_end(_awaited(step)) :]
            if left:
                async with asyncio.timeout(SEND_SECONDS):
                    await _ready(self._connection, writing=True)


async def _awaited(step: Callable[[], asyncio.Future[int]]) -> int:
    return await step()


def _send_some(connection: ssl.SSLSocket, data: memoryview) -> int:
    """Send what the connection takes without waiting; raise `ConnectionError` when the reader has gone."""
    sent = 0
    try:
        while sent < len(data):
            sent += connection.send(data[sent:])
    except ssl.SSLWantWriteError:
        pass
    except ssl.SSLError as error:  # how TLS tells of an end that nobody announced
        raise ConnectionResetError(f"the reader has gone: {error.reason}") from error
    return sent


def _undelayed(connection: socket.socket) -> None:
    """Send small packets at once: else the handshake waits 40 ms for an acknowledgement of the greeting."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        try:
            part = connection.recv(size - len(received))
        except (BlockingIOError, ssl.SSLWantReadError):
            await _ready(connection, writing=False)
            continue
        if not part:
            raise ConnectionResetError("the connection ended early")
        received += part
    return received


async def _shaken(connection: ssl.SSLSocket) -> None:
    while True:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(connection, writing=False)
        except ssl.SSLWantWriteError:
            await _ready(connection, writing=True)
        else:
            return


async def _line(connection: ssl.SSLSocket) -> bytes:
    """Read the line of the request: nothing follows it."""
    received = bytearray()
    while not received.endswith(b"\n"):
        try:
            part = connection.recv(1 << 16)
        except ssl.SSLWantReadError:
            await _ready(connection, writing=False)
            continue
        if not part or len(received) > MAX_LINE:
            raise ConnectionResetError("the request is cut short, or too long")
        received += part
    return bytes(received)


class _Request(msgspec.Struct):
    stream: str
    query: dict[str, Any]


def _asked(line: bytes) -> tuple[str, dict[str, Any]]:
    request = msgspec.json.decode(line, type=_Request)
    return request.stream, request.query


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


class BulkSource:
    """The bytes of a peer's stream: one thread reads and may wait, `stop` comes from any other."""

    def __init__(self, connection: ssl.SSLSocket, turns: Turns) -> None:
        self._connection = connection
        self._turns = turns

    def read_into(self, buffer: memoryview) -> int:
        """Read until the buffer is full, or some time has passed; return how many bytes: none where the stream ends.

        Raises `TimeoutError` when nothing comes for a while, `PeerUnreachable` when the connection breaks.
        """
        most = self._turns.some(len(buffer))
        got, until = 0, time.monotonic() + SETTLE
        try:
            while got < most:
                more = self._connection.recv_into(buffer[got:most])
                got += more
                if not more or time.monotonic() > until:
                    break
            self._turns.moved(got)
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerUnreachable(f"the stream broke: {error.strerror or error}") from None
        return got

    def stop(self) -> None:
        """Let the thread that reads find the end of the stream."""
        self._turns.end()
        with contextlib.suppress(OSError):  # it has ended
            # `SSLSocket.shutdown` would have the reader take what is encrypted for the stream.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; nobody reads any more."""
        self._connection.close()


def dial(
    context: ssl.SSLContext,
    address: str,
    node_id: str,
    stream: str,
    query: dict[str, Any],
    *,
    connect: float,
    stall: float,
    turns: Turns,
) -> BulkSource:
    """Ask a node that listens at `address` for a stream; blocks. `stall` is the longest wait for bytes, in seconds.

    Raises `OSError` where there is no way there, `PeerUnreachable` when it breaks off, and whatever the stream raised.
    """
    connection = socket.create_connection(split_address(address), connect)
    try:
        _undelayed(connection)
        connection.sendall(HELLO)
        secured = context.wrap_socket(connection, server_hostname=tls.host_of(node_id))
    except BaseException:
        connection.close()
        raise
    try:
        secured.settimeout(stall)
        secured.sendall(msgspec.json.encode({"stream": stream, "query": query}) + b"\n")
        _check_answer(secured)
    except BaseException:
        secured.close()
        raise
    return BulkSource(secured, turns)


def _check_answer(connection: ssl.SSLSocket) -> None:
    """Read the line before the bytes, and nothing of them; raise what it says."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        if not part or len(line) > MAX_LINE:
            raise PeerUnreachable("the stream ended before it began")
        line += part
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise PeerUnreachable("the peer answered nonsense") from None
    if said:
        raise CachedError.from_wire(said)

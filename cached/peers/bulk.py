"""Streams of many bytes: each on a TLS connection of its own, moved by threads rather than by the event loop.

The same port, the same certificates, the same handlers as for streams over HTTP; what differs is who moves the bytes,
which costs less than two thirds of the processor's time. A connection begins with `HELLO`, in the clear, where TLS
would begin with another byte; then the handshake, one line of JSON that names stream and query, one line of JSON that
is empty or an error, and the bytes until the connection ends. The reader knows how many it wants: with `keep` in its
request the connection stays when a stream has come to its end, and takes the next request (`bulk_source` asks).

Handshakes are done by the loop: a stranger occupies no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import msgspec

from cached.critical import to_the_end
from cached.errors import CachedError
from cached.peers import tls
from cached.peers.handlers import Handlers
from cached.peers.records import Peer

#: How a connection for bulk begins; the first byte of TLS is 0x16.
HELLO: Final = b"cached bulk 1\n"
#: Longest line of a request, and of its answer, in bytes.
MAX_LINE: Final = 1 << 20
#: Seconds for the request to arrive, and until a reader that takes nothing is left.
REQUEST_SECONDS: Final = 5.0
SEND_SECONDS: Final = 30.0
#: Seconds that a connection waits for its next request, and how many of one peer do.
KEEP_SECONDS: Final = 60.0
KEPT: Final = 8
#: So few bytes the loop sends itself: a thread would take longer to be reached.
AT_ONCE: Final = 1 << 10
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
        #: Connections that wait for their next request, by node id.
        self._kept: Counter[str] = Counter()

    def close(self) -> None:
        """End the threads; all streams have ended."""
        self._threads.shutdown()

    async def shake(self, connection: socket.socket) -> ssl.SSLSocket:
        """Bring a connection through the handshake; it is closed, and `OSError` raised, when that fails."""
        try:
            if await _exactly(connection, len(HELLO)) != HELLO:
                raise ConnectionResetError("neither TLS nor a stream that this node knows")
            undelayed(connection)
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
        """Answer the requests of a connection, one after the other, and close it."""
        try:
            request = await _request(connection, REQUEST_SECONDS)
            while await self._answer(connection, request) and request.keep:
                request = await self._next(connection)
        except (OSError, msgspec.MsgspecError):
            pass  # nobody is there to read it
        finally:
            connection.close()

    async def _answer(self, connection: ssl.SSLSocket, request: _Request) -> bool:
        """Send one stream; tell whether it came to its end."""
        writer = _BulkWriter(connection, self._threads)
        peer = tls.peer_of(connection)
        self._heard(peer)
        try:
            await self._handlers.run_stream(peer, request.stream, request.query, writer)
            await writer.begin()
        except CachedError as error:
            await writer.refuse(error)
            return False
        return True

    async def _next(self, connection: ssl.SSLSocket) -> _Request:
        """Wait for another request; raise `ConnectionError` where too many connections of that peer wait already."""
        peer = tls.peer_of(connection).node_id
        if self._kept[peer] >= KEPT:
            raise ConnectionAbortedError("other connections of this peer wait")
        self._kept[peer] += 1
        try:
            return await _request(connection, KEEP_SECONDS)
        finally:
            self._kept[peer] -= 1
            if not self._kept[peer]:
                del self._kept[peer]


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
        if len(left) <= AT_ONCE:
            left = left[_send_some(self._connection, left) :]
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


def undelayed(connection: socket.socket) -> None:
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
    #: Another request may follow.
    keep: bool = False


async def _request(connection: ssl.SSLSocket, seconds: float) -> _Request:
    async with asyncio.timeout(seconds):
        return msgspec.json.decode(await _line(connection), type=_Request)

"""The side of a link that is dialled: accept members of the cluster, run their calls, stream to them.

A stranger gets no further than the TLS handshake: it fails for whoever has no certificate of the cluster,
within a time limit, with a cap on the handshakes under way, and without a trace in the log but a count. What
members may ask is capped, too: body size, calls and streams at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakSet

import msgspec
from aiohttp import web

from cached.budget import Budget, PacedWriter, Writer, goes_first
from cached.errors import Busy, CachedError, Forbidden, NotFound, UsageError
from cached.peers import tls
from cached.peers.distance import least_round_trip
from cached.peers.records import Peer
from cached.peers.route import split_address

log = logging.getLogger(__name__)

#: Largest JSON body, either way, in bytes.
MAX_BODY = 32 << 20
#: Bytes of all bodies that one peer is sending, those not counted that are small.
MAX_BODIES = 64 << 20
SMALL_BODY = 64 << 10
#: Calls and streams that one peer may have under way.
MAX_CALLS = 128
MAX_STREAMS = 64
#: Connections that one peer may have open; nodes need no more than 100.
MAX_CONNECTIONS = 256
HANDSHAKE_SECONDS = 5.0
MAX_HANDSHAKES = 1024
MAX_HANDSHAKES_PER_HOST = 256
READ_BUFFER = 1 << 20

_NAME = re.compile(r"[a-z0-9._-]{1,64}")


CallHandler = Callable[[Peer, dict[str, Any]], Awaitable[Any]]
StreamHandler = Callable[[Peer, dict[str, Any], Writer], Awaitable[None]]


#: A body that is there, or how to read it.
Body = dict[str, Any] | Callable[[], Awaitable[dict[str, Any]]]


async def _read(body: Body) -> dict[str, Any]:
    return body if isinstance(body, dict) else await body()


class Handlers:
    """The named calls and streams that a node answers, however they arrive."""

    def __init__(self, revoked: Callable[[str], bool], upload: Budget) -> None:
        self._revoked = revoked
        self._upload = upload
        self._calls: dict[str, CallHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._running: Counter[tuple[str, str]] = Counter()

    def handle(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method`."""
        assert _NAME.fullmatch(method)
        assert method not in self._calls
        self._calls[method] = handler

    def stream(self, name: str, handler: StreamHandler) -> None:
        """Answer streams of `name`."""
        assert _NAME.fullmatch(name)
        assert name not in self._streams
        self._streams[name] = handler

    def check(self, peer: Peer) -> None:
        """Raise `Forbidden` if the peer has been revoked, also after it connected."""
        if self._revoked(peer.node_id):
            raise Forbidden("this node is revoked")

    async def run_call(self, peer: Peer, method: str, body: Body) -> Any:
        """Run a call; every failure leaves as a `CachedError`. The body is read once the call is admitted."""
        handler = self._calls.get(method)
        if handler is None:
            raise NotFound(f"this node has no call {method!r}", hint="do all nodes run the same version?")
        async with self._admit(peer, "calls", MAX_CALLS, method):
            return await handler(peer, await _read(body))

    async def run_stream(self, peer: Peer, name: str, query: Body, writer: Writer) -> None:
        """Run a stream; every failure leaves as a `CachedError`, a vanished reader as `ConnectionError`."""
        handler = self._streams.get(name)
        if handler is None:
            raise NotFound(f"this node has no stream {name!r}", hint="do all nodes run the same version?")
        async with self._admit(peer, "streams", MAX_STREAMS, name):
            asked = await _read(query)
            await handler(peer, asked, PacedWriter(writer, self._upload, first=goes_first(asked)))

    @contextlib.asynccontextmanager
    async def _admit(self, peer: Peer, kind: str, limit: int, name: str) -> Any:
        self.check(peer)
        key = (peer.node_id, kind)
        if self._running[key] >= limit:
            raise Busy(f"{limit} {kind} of this peer are under way", hint="try again in a moment")
        self._running[key] += 1
        try:
            yield
        except (CachedError, ConnectionError):
            raise
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from None
        except Exception:
            log.exception("%s from node %s failed", name, peer.node_id[:8])
            raise CachedError(f"{name} failed on the peer", hint="its log says why") from None
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


class Acceptor:
    """Accepts connections and brings them through the handshake, a bounded number at a time."""

    def __init__(self, context: ssl.SSLContext, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._context = context
        self._protocol = protocol
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking: Counter[str] = Counter()
        #: Open connections, by node id.
        self._here: dict[str, WeakSet[asyncio.Transport]] = {}
        #: Connections refused in or before the handshake.
        self.refused = 0

    async def start(self, listen: str) -> int:
        """Listen on `host:port` (port 0 picks one) and return the port; raises `OSError` when that fails."""
        host, port = split_address(listen)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, given in dict.fromkeys(found):
            address = (given[0], self.port if self._sockets else port, *given[2:])
            listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
            self._sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(found) > 1))
            listener.bind(address)
            listener.listen(512)
        for listener in self._sockets:
            self._own(self._accept(listener))
        return self.port

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Accept nobody any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._sockets:
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    log.warning("cannot accept peers: %s", error.strerror)
                    await asyncio.sleep(0.5)
                continue
            host = str(address[0])
            if self._shaking.total() >= MAX_HANDSHAKES or self._shaking[host] >= MAX_HANDSHAKES_PER_HOST:
                self.refused += 1
                connection.close()
                continue
            self._shaking[host] += 1
            self._own(self._shake(connection, host))

    async def _shake(self, connection: socket.socket, host: str) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
            self._welcome(transport)
        except OSError as error:  # ssl.SSLError and time-outs are among them
            self.refused += 1
            log.debug("refused a connection from %s: %s", host, error)
        finally:
            self._shaking[host] -= 1
            if not self._shaking[host]:
                del self._shaking[host]

    def _welcome(self, transport: asyncio.Transport) -> None:
        """Count a connection for its peer, and end it when there are too many."""
        peer = tls.peer_of(transport.get_extra_info("ssl_object")).node_id
        here = WeakSet(one for one in self._here.get(peer, ()) if not one.is_closing())
        if len(here) < MAX_CONNECTIONS:
            here.add(transport)
        else:
            self.refused += 1
            transport.abort()
        self._here = {node_id: left for node_id, left in self._here.items() if left} | {peer: here}

    def round_trip(self, node_id: str) -> float:
        """Return the least round trip on the connections of a node, in seconds; 0 when it has none."""
        found = (least_round_trip(one) for one in self._here.get(node_id, ()) if not one.is_closing())
        return min(filter(None, found), default=0.0)

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def peer_of(request: web.Request) -> Peer:
    """Return the member who sent the request; raises `ConnectionError` when it has gone."""
    if request.transport is None:
        raise ConnectionResetError("the peer has gone")
    return tls.peer_of(request.transport.get_extra_info("ssl_object"))


async def json_body(request: web.Request) -> dict[str, Any]:
    """Read a request's JSON object."""
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except web.HTTPException as error:
        raise UsageError(f"the request's body cannot be read: {error.reason}") from None
    except web.RequestPayloadError as error:
        raise ConnectionResetError(f"the request's body broke off: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the request's body is not a JSON object: {error}") from None


def json_response(value: Any) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def error_response(error: CachedError) -> web.Response:
    """Return the response that carries an error."""
    body = msgspec.json.encode(error.to_wire(), enc_hook=str)
    return web.Response(status=error.status, body=body, content_type="application/json")


class HttpWriter:
    """Writes a stream into a response; headers leave with the first byte, so that errors before it keep
    their type.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})

    def length(self, total: int) -> None:
        """Say how many bytes will come."""
        self.response.content_length = total

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, waiting for room."""
        await self.begin()
        await self.response.write(data)

    async def begin(self) -> None:
        """Send the headers, unless they have been sent."""
        if not self.response.prepared:
            await self.response.prepare(self._request)


class Server:
    """HTTP/1.1 over mutual TLS for the calls and streams of `Handlers`."""

    def __init__(self, context: ssl.SSLContext, handlers: Handlers, heard: Callable[[Peer], None]) -> None:
        self._context = context
        self.handlers = handlers
        self._heard = heard
        self.app = web.Application(client_max_size=MAX_BODY)
        self.app.router.add_post("/v1/call/{name}", self.guarded(self._call))
        self.app.router.add_post("/v1/stream/{name}", self.guarded(self._stream))
        #: Bytes of large bodies on their way, by peer.
        self._coming: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._acceptor: Acceptor | None = None

    @property
    def refused(self) -> int:
        """Connections refused in the handshake, since the start."""
        return self._acceptor.refused if self._acceptor else 0

    def round_trip(self, node_id: str) -> float:
        """Return the least round trip to a node that is connected here, in seconds; 0 when nothing is known."""
        return self._acceptor.round_trip(node_id) if self._acceptor else 0.0

    async def start(self, listen: str) -> int:
        """Listen; return the port."""
        self._runner = web.AppRunner(
            self.app, access_log=None, keepalive_timeout=75.0, shutdown_timeout=1.0, read_bufsize=READ_BUFFER
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._acceptor = Acceptor(self._context, self._runner.server)
        return await self._acceptor.start(listen)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._acceptor:
            await self._acceptor.close()
        if self._runner:
            await self._runner.cleanup()

    def guarded(
        self, handler: Callable[[web.Request, Peer], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Wrap a route: find the peer, and send errors as they are known everywhere."""

        async def route(request: web.Request) -> web.StreamResponse:
            try:
                peer = peer_of(request)
                self.handlers.check(peer)
                self._heard(peer)
                return await handler(request, peer)
            except CachedError as error:
                return error_response(error)
            except ConnectionError:
                return web.Response()  # nobody is there to read it

        return route

    async def _body(self, request: web.Request, peer: Peer) -> dict[str, Any]:
        """Read a body, unless the bodies that are on their way from that peer are too large together."""
        length = request.content_length
        size = MAX_BODY if length is None else length
        if size <= SMALL_BODY:
            return await json_body(request)
        if self._coming[peer.node_id] + size > MAX_BODIES:
            raise Busy("too much of this peer is on its way", hint="try again in a moment")
        self._coming[peer.node_id] += size
        try:
            return await json_body(request)
        finally:
            self._coming[peer.node_id] -= size
            if not self._coming[peer.node_id]:
                del self._coming[peer.node_id]

    async def _call(self, request: web.Request, peer: Peer) -> web.StreamResponse:
        name = request.match_info["name"]
        return json_response(await self.handlers.run_call(peer, name, partial(self._body, request, peer)))

    async def _stream(self, request: web.Request, peer: Peer) -> web.StreamResponse:
        writer = HttpWriter(request)
        try:
            await self.handlers.run_stream(
                peer, request.match_info["name"], partial(self._body, request, peer), writer
            )
            await writer.begin()
            await writer.response.write_eof()
        except (CachedError, ConnectionError) as error:
            if isinstance(error, CachedError) and not writer.response.prepared:
                raise
            # The headers are gone: only a broken connection tells the reader that the stream is not whole.
            if request.transport is not None:
                request.transport.abort()
        return writer.response

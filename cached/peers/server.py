"""The side of a link that is dialled: accept members of the cluster, run their calls, stream to them.

A stranger gets no further than the TLS handshake: it fails for whoever has no certificate of the cluster,
within a time limit, with a cap on the handshakes under way, and without a trace in the log but a count. What
members may ask is capped, too: body size, calls and streams at a time.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from cached.errors import Busy, CachedError, UsageError
from cached.peers import tls
from cached.peers.acceptor import Acceptor
from cached.peers.bulk import BulkServer
from cached.peers.handlers import Handlers
from cached.peers.records import Peer

#: Largest JSON body, either way, in bytes.
MAX_BODY = 32 << 20
#: Bytes of all bodies that one peer is sending, those not counted that are small.
MAX_BODIES = 64 << 20
SMALL_BODY = 64 << 10
READ_BUFFER = 1 << 20
#: Bytes that are encrypted and sent at a time: of more, the event loop copies what the socket does not take, again and
#: again.
STEP = 256 << 10


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
        for at in range(0, len(data), STEP):
            await self.response.write(data[at : at + STEP])

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
        self._bulk: BulkServer | None = None

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
        self._bulk = BulkServer(self._context, self.handlers, self._heard)
        self._acceptor = Acceptor(self._context, self._runner.server, self._bulk)
        return await self._acceptor.start(listen)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._acceptor:
            await self._acceptor.close()
        if self._bulk:
            self._bulk.close()
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

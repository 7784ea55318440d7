"""The side of a link that dials: pooled HTTP over mutual TLS to node ids.

The URL's host is the node id: the pool is kept per node, the handshake proves the node, and the address is
looked up when a connection is made, so that a peer that moved is found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from cached.errors import CachedError, PeerUnreachable
from cached.peers import tls
from cached.peers.records import Peer
from cached.peers.route import split_address
from cached.peers.server import MAX_BODY, READ_BUFFER

#: Longest wait for a connection and its handshake: a packet lost on the way is sent again after one second, and a
#: busy peer needs a moment for the handshake.
CONNECT_SECONDS = 3.0
#: Longest wait until a node that has been silent takes a connection: one that is dead costs nobody more.
KNOCK_SECONDS = 1.0
#: Connections to one node; more requests wait their turn, calls never behind streams.
CALLS = 48
STREAMS = 32
#: An idle connection is kept for so long, less than the other side keeps it: among 32 nodes a pair talks every 20
#: seconds, and a handshake costs both as much as several calls.
KEEP_SECONDS = 70.0
#: Unacknowledged bytes break a connection after this many milliseconds.
USER_TIMEOUT_MS = 8000


class NotConnected(PeerUnreachable):
    """The peer could not be dialled: nothing of the request was sent."""


class Client:
    """Sends requests to nodes; `address_of` says where a node listens, or raises `PeerUnreachable`.

    `silent` says whether nothing has been heard of a node lately: it is knocked at before it is sent anything.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        address_of: Callable[[str], str],
        silent: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._context = context
        self._address_of = address_of
        self._silent = silent
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    async def call(self, node_id: str, path: str, body: Any, timeout: float) -> Any:
        """POST JSON and return the JSON answer; raises what the peer raised, `NotConnected` or
        `PeerUnreachable`.
        """
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        async with self._post(CALLS, node_id, path, msgspec.json.encode(body), limits) as response:
            return await _answer(node_id, response)

    async def fetch(self, node_id: str, path: str, query: Any, stall: float | None) -> AsyncIterator[bytes]:
        """POST JSON and yield the answer's bytes as they arrive; `stall` is the longest wait for the next."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall)
        async with self._post(STREAMS, node_id, path, msgspec.json.encode(query), limits) as response:
            if response.status != 200:
                await _answer(node_id, response)
            while chunk := await response.content.readany():
                yield chunk

    async def push(self, node_id: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """POST a stream of bytes."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        async with self._post(STREAMS, node_id, path, chunks, limits) as response:
            await _answer(node_id, response)

    async def shake(self, address: str) -> Peer:
        """Dial an address, and return which member of the cluster listens there; raises `NotConnected`."""
        try:
            host, port = split_address(address)
            async with asyncio.timeout(KNOCK_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._handshake(writer)
        except (OSError, ValueError) as error:
            raise NotConnected(f"no member of this cluster answers at {address}: {_words(error)}") from None
        peer = tls.peer_of(writer.get_extra_info("ssl_object"))
        writer.transport.abort()
        return peer

    async def _handshake(self, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.start_tls(self._context, server_hostname=tls.ANY)
        except BaseException:
            writer.transport.abort()
            raise

    async def _knock(self, node_id: str) -> None:
        """Raise `NotConnected` unless something takes connections where the node listens."""
        host, port = split_address(self._address_of(node_id))
        try:
            async with asyncio.timeout(KNOCK_SECONDS):
                _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise NotConnected(
                f"node {node_id[:8]} cannot be dialled: {_words(error)}", node=node_id
            ) from None
        writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _post(
        self, pool: int, node_id: str, path: str, data: Any, limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        who = f"node {node_id[:8]}"
        if self._silent(node_id):
            await self._knock(node_id)
        try:
            url = f"https://{tls.host_of(node_id)}{path}"
            async with self._session(pool).post(url, data=data, timeout=limits) as response:
                yield response
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ClientConnectorCertificateError,
            aiohttp.ConnectionTimeoutError,
        ) as error:
            raise NotConnected(f"{who} cannot be dialled: {_words(error)}", node=node_id) from None
        except TimeoutError:
            raise PeerUnreachable(f"{who} did not answer in time", node=node_id) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise PeerUnreachable(f"the connection to {who} broke: {_words(error)}", node=node_id) from None

    def _session(self, pool: int) -> aiohttp.ClientSession:
        if pool not in self._sessions:
            connector = aiohttp.TCPConnector(
                ssl=self._context,
                resolver=_Resolver(self._address_of),
                use_dns_cache=False,
                limit=0,
                limit_per_host=pool,
                keepalive_timeout=KEEP_SECONDS,
                socket_factory=_socket,
            )
            self._sessions[pool] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER,
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._sessions[pool]


class _Resolver(AbstractResolver):
    def __init__(self, address_of: Callable[[str], str]) -> None:
        self._address_of = address_of

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        node_host, node_port = split_address(self._address_of(host.removesuffix(tls.SUFFIX)))
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(node_host, node_port, family=family, type=socket.SOCK_STREAM)
        return [
            ResolveResult(hostname=host, host=str(to[0]), port=node_port, family=kind, proto=proto, flags=0)
            for kind, _, proto, _, to in found
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


def _socket(info: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(info[0], info[1], info[2])
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return made


async def _answer(node_id: str, response: aiohttp.ClientResponse) -> Any:
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > MAX_BODY:
            response.close()
            raise PeerUnreachable(f"the answer of node {node_id[:8]} is too large", node=node_id)
        parts.append(chunk)
    try:
        value = msgspec.json.decode(b"".join(parts))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise PeerUnreachable(f"the answer of node {node_id[:8]} is not JSON", node=node_id) from None
    if response.status != 200:
        raise CachedError.from_wire(value if isinstance(value, dict) else {})
    return value


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    inner = getattr(error, "os_error", None)
    if inner is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

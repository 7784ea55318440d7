"""Who connects is brought through the handshake, a bounded number at a time, and strangers get no further."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from cached.peers import tls
from cached.peers.bulk import BulkServer, wants_bulk
from cached.peers.distance import least_round_trip
from cached.peers.route import split_address

log = logging.getLogger(__name__)

#: Connections that one peer may have open; nodes need no more than 100.
MAX_CONNECTIONS = 256
HANDSHAKE_SECONDS = 5.0
MAX_HANDSHAKES = 1024
MAX_HANDSHAKES_PER_HOST = 256


class Acceptor:
    """Accepts connections and brings them through the handshake, a bounded number at a time."""

    def __init__(
        self, context: ssl.SSLContext, protocol: Callable[[], asyncio.Protocol], bulk: BulkServer
    ) -> None:
        self._context = context
        self._protocol = protocol
        self._bulk = bulk
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
        secured: ssl.SSLSocket | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if await wants_bulk(connection):
                    secured = await self._bulk.shake(connection)
                else:
                    await self._shake_http(connection)
        except OSError as error:  # ssl.SSLError and time-outs are among them
            self.refused += 1
            log.debug("refused a connection from %s: %s", host, error)
        finally:
            self._shaking[host] -= 1
            if not self._shaking[host]:
                del self._shaking[host]
        if secured is not None:
            await self._bulk.serve(secured)

    async def _shake_http(self, connection: socket.socket) -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            self._protocol,
            connection,
            ssl=self._context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=1.0,
        )
        self._welcome(transport)

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

"""`data.sock`: descriptors handed out to jobs and taken in from creators, over `SOCK_SEQPACKET`.

asyncio has no transport for such sockets: this is `loop.add_reader` on non-blocking ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from typing import Final

from cached import packets, wire
from cached.api.auth import Callers
from cached.api.connection import Connection
from cached.api.metrics import ApiMetrics
from cached.api.verbs import Verbs
from cached.errors import Busy, CachedError
from cached.node.caller import Caller

log = logging.getLogger(__name__)

#: Connections taken in one go before other clients have their turn.
_ACCEPT_AT_ONCE: Final = 32
#: Pause after the daemon ran out of descriptors, in seconds.
_BREATHER: Final = 0.2


class HandleServer:
    """Serves one listening socket; every connected user may hold a limited number of connections."""

    def __init__(
        self, verbs: Verbs, callers: Callers, *, metrics: ApiMetrics, connections_per_user: int = 1024
    ) -> None:
        self._verbs = verbs
        self._callers = callers
        self._metrics = metrics
        self._limit = connections_per_user
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._by_user: Counter[int] = Counter()
        self._settling: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self, listener: socket.socket) -> None:
        """Accept clients on a listening, non-blocking socket; it stays the caller's."""
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    async def close(self) -> None:
        """Stop: creations are cancelled, seals run to their end, pins stay recorded for the next daemon."""
        self._stopping = True
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener = None
        for connection in tuple(self._connections):
            connection.close()
        while self._settling:
            await asyncio.wait(set(self._settling))

    def _accept(self) -> None:
        listener = self._listener
        for _ in range(_ACCEPT_AT_ONCE):
            if listener is None:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            connection.setblocking(False)
            self._welcome(connection)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Out of descriptors: without a pause the loop would spin on a socket that stays readable."""
        log.warning("data_sock.accept_failed reason=%s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(_BREATHER, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _welcome(self, connection: socket.socket) -> None:
        try:
            caller = self._admitted(connection)
        except (CachedError, OSError) as error:
            self._turn_away(connection, error)
            return
        client = Connection(connection, caller, self._verbs, metrics=self._metrics, left=self._left)
        self._connections.add(client)
        self._by_user[caller.uid] += 1
        self._metrics.connections["data"] += 1
        client.start()

    def _admitted(self, connection: socket.socket) -> Caller:
        caller = self._callers.caller_of(connection)
        if self._by_user[caller.uid] >= self._limit:
            raise Busy(
                f"user {caller.user} has {self._limit} connections open already",
                hint="close some; one connection serves many requests",
            )
        return caller

    def _turn_away(self, connection: socket.socket, error: CachedError | OSError) -> None:
        with contextlib.suppress(OSError):
            if isinstance(error, CachedError):
                self._metrics.failed("connect", error.code)
                packets.send(connection, wire.encode({"v": 1, **error.to_wire()}))
        connection.close()

    def _left(self, client: Connection) -> None:
        self._connections.discard(client)
        self._by_user[client.caller.uid] -= 1
        if not self._by_user[client.caller.uid]:
            del self._by_user[client.caller.uid]
        self._metrics.connections["data"] -= 1
        task = asyncio.create_task(client.settle(keep_pins=self._stopping))
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("client.not_settled", exc_info=task.exception())

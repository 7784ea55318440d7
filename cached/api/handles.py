"""`data.sock`: descriptors handed out to jobs and taken in from creators, over `SOCK_SEQPACKET`.

asyncio has no transport for such sockets: this is `loop.add_reader` on non-blocking ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial

from cached import packets, wire
from cached.api import door
from cached.api.auth import Callers
from cached.api.connection import Connection
from cached.api.door import Door
from cached.api.metrics import ApiMetrics
from cached.api.verbs import Verbs
from cached.errors import Busy, CachedError
from cached.hands import CLOSING
from cached.node.caller import Caller

log = logging.getLogger(__name__)


class HandleServer:
    """Serves one listening socket; every connected user may hold a limited number of connections."""

    def __init__(
        self,
        verbs: Verbs,
        callers: Callers,
        *,
        metrics: ApiMetrics,
        expect: Callable[[], None] = lambda: None,
        connections_per_user: int | None = None,
        descriptors_per_user: int | None = None,
    ) -> None:
        self._verbs = verbs
        self._callers = callers
        self._metrics = metrics
        #: Told that another quick request may follow at once.
        self._expect = expect
        self._limit = connections_per_user or door.connections_per_user()
        self._most_held = descriptors_per_user or door.descriptors_per_user()
        self._held: Counter[int] = Counter()
        self._door: Door | None = None
        self._connections: set[Connection] = set()
        self._by_user: Counter[int] = Counter()
        self._settling: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self, listener: socket.socket) -> None:
        """Accept clients on a listening, non-blocking socket; it stays the caller's."""
        self._door = Door(listener, self._welcome)

    async def close(self) -> None:
        """Stop: creations are cancelled, seals run to their end, pins stay recorded for the next daemon."""
        self._stopping = True
        if self._door is not None:
            self._door.close()
        for connection in tuple(self._connections):
            connection.close()
        while self._settling:
            await asyncio.wait(set(self._settling))

    def _welcome(self, connection: socket.socket) -> None:
        try:
            caller = self._admitted(connection)
        except (CachedError, OSError) as error:
            self._turn_away(connection, error)
            return
        client = Connection(
            connection,
            caller,
            self._verbs,
            metrics=self._metrics,
            expect=self._expect,
            left=self._left,
            hold=lambda count: self._hold(caller, count),
            discard=partial(CLOSING.close, caller.user),
            overdue=lambda: CLOSING.left(caller.user) >= self._most_held,
        )
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
        if CLOSING.left(caller.user) >= self._most_held:
            raise Busy(
                f"{self._most_held} files of user {caller.user} cannot be closed",
                hint="is their file system alive?",
            )
        return caller

    def _hold(self, caller: Caller, count: int) -> None:
        """Count descriptors that wait with a user's requests, or no longer do. Raises `Busy` above the user's share."""
        if count > 0 and self._held[caller.uid] + count > self._most_held:
            raise Busy(
                f"requests of user {caller.user} hold {self._held[caller.uid]} descriptors already",
                hint="create fewer sets at a time",
            )
        self._held[caller.uid] += count
        if not self._held[caller.uid]:
            del self._held[caller.uid]

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
        if client.settled(keep_pins=self._stopping):
            return
        task = asyncio.create_task(client.settle(keep_pins=self._stopping))
        self._settling.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("client.not_settled", exc_info=task.exception())

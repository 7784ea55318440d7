"""The HTTP connections of each local user, counted, so that one who opens too many shuts nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from weakref import WeakSet

from cached import wire
from cached.api.auth import uid_of
from cached.api.door import connections_per_user
from cached.errors import Busy


class Guests:
    """Hands accepted connections to an HTTP server, at most `limit` of one user at a time."""

    def __init__(self, serve: Callable[[], asyncio.BaseProtocol], *, limit: int | None = None) -> None:
        self._serve = serve
        self._limit = limit or connections_per_user()
        self._here: dict[int, WeakSet[asyncio.Transport]] = {}
        self._coming: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def welcome(self, connection: socket.socket) -> None:
        """Serve a new connection, or say that there are too many and close it."""
        try:
            uid = uid_of(connection)
            if self._count(uid) >= self._limit:
                self._turn_away(connection, uid)
                return
        except OSError:
            connection.close()
            return
        self._coming[uid] += 1
        task = asyncio.get_running_loop().create_task(self._seat(connection, uid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, uid: int) -> int:
        here = self._here.get(uid, ())
        if len(here) + self._coming[uid] < self._limit:
            return len(here)
        open_ = WeakSet(one for one in here if not one.is_closing())
        self._here = {each: left for each, left in self._here.items() if left} | {uid: open_}
        return len(open_) + self._coming[uid]

    async def _seat(self, connection: socket.socket, uid: int) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._serve, connection)
            self._here.setdefault(uid, WeakSet()).add(transport)
        except OSError:
            connection.close()
        finally:
            self._coming[uid] -= 1
            if not self._coming[uid]:
                del self._coming[uid]

    def _turn_away(self, connection: socket.socket, uid: int) -> None:
        error = Busy(
            f"user {uid} has {self._limit} connections open already",
            hint="close some; one connection serves many requests",
        )
        body = wire.encode(error.to_wire())
        head = (
            f"HTTP/1.1 {error.status} Busy\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            connection.send(head.encode() + body)
        connection.close()

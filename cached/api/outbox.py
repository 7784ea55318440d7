"""Packets on their way to one client, which may be slow: what the kernel does not take at once waits here.

Owns the descriptors that it is given and closes its copies once they are sent, or dropped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from cached import packets, wire
from cached.errors import Busy


class Outbox:
    """Sends in order and never blocks; `changed` is called when it fills up and when it is empty again."""

    def __init__(
        self, connection: socket.socket, changed: Callable[[], None], broken: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._changed = changed
        self._broken = broken
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def drained(self) -> None:
        """Wait until the kernel has taken everything."""
        await self._empty.wait()

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet, now or as soon as the client reads."""
        if self._closed:
            packets.close_all(descriptors)
        elif self._waiting:
            self._waiting.append((data, descriptors))
        elif not self._sent(data, descriptors):
            self._waiting.append((data, descriptors))
            self._empty.clear()
            self._loop.add_writer(self._connection.fileno(), self._flush)
            self._changed()

    def close(self) -> None:
        """Drop what was not sent. The connection's owner closes the connection."""
        self._closed = True
        if self._waiting:
            self._loop.remove_writer(self._connection.fileno())
        for _, descriptors in self._waiting:
            packets.close_all(descriptors)
        self._waiting.clear()
        self._empty.set()

    def _flush(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            if self._waiting:
                self._waiting.popleft()
        if not self._waiting and not self._closed:
            self._loop.remove_writer(self._connection.fileno())
            self._empty.set()
            self._changed()

    def _sent(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Return False when the packet has to wait."""
        try:
            packets.send(self._connection, data, descriptors)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            packets.close_all(descriptors)
            if error.errno != errno.ETOOMANYREFS:
                self._broken()
                return True
            return self._sent(_too_many_in_flight(), ())
        for descriptor in descriptors:
            os.close(descriptor)
        return True


def _too_many_in_flight() -> bytes:
    error = Busy(
        "too many descriptors are on their way to clients that do not read them",
        hint="try again; raise the daemon's limit of open files (LimitNOFILE) if it stays so",
    )
    return wire.encode({"v": 1, **error.to_wire()})

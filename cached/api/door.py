"""The door of a local socket: accepts clients in turns, and waits a moment when the daemon is out of descriptors."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

#: Connections taken in one go before other clients have their turn.
_ACCEPT_AT_ONCE: Final = 32
#: Pause after the daemon ran out of descriptors, in seconds.
_BREATHER: Final = 0.2
#: Connections that one user may hold on one socket, where the daemon may have descriptors enough for that.
MOST_CONNECTIONS: Final = 1024
#: No user gets more than this part of the daemon's descriptors on one socket.
_SHARE: Final = 8


def connections_per_user() -> int:
    """Return how many connections one user may hold on one socket."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if limit < 0 else max(16, min(MOST_CONNECTIONS, limit // _SHARE))


def descriptors_per_user() -> int:
    """Return how many descriptors the waiting requests of one user may hold."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if limit < 0 else max(512, limit // _SHARE)


def raise_limit() -> None:
    """Let the daemon open as many descriptors as it may: clients and sets take many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Door:
    """Accepts the clients of a listening, non-blocking socket, which stays the caller's."""

    def __init__(self, listener: socket.socket, welcome: Callable[[socket.socket], None]) -> None:
        self._listener: socket.socket | None = listener
        #: Takes over each new, non-blocking connection.
        self._welcome = welcome
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept nobody any more."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener = None

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            listener = self._listener
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
        log.warning("accept_failed reason=%s", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(_BREATHER, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if self._listener is listener:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

"""The port that libtorrent listens on: looked at before it does, since it starts late, and cleared when it is to end.

When a session is destroyed, libtorrent (2.1.1) frees connections in the middle of their TLS handshake before these have
heard of their end: memory is written that belongs to others by then, and the process ends by a signal. Any stranger who
connects and says nothing brings that about, and so do members who dial again whoever has just left (ADR 35).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

from cached.errors import CachedError

#: Seconds between two looks.
_LOOK: Final = 0.01


def check_port(host: str, port: int) -> None:
    """Raise `CachedError` when the port is taken: to be found out early, since libtorrent starts later."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CachedError(
                f"BitTorrent cannot listen on {host}:{port}: {error.strerror}",
                hint="choose another port in [node] bittorrent",
            ) from error


def end_accepted(port: int, seconds: float) -> bool:
    """Shut down what was accepted, until nothing is left and nobody listens any more; tell whether it came to that.

    Waits for at most so many seconds; blocks. Whoever reads from such a connection finds its end, and closes it.
    """
    until = time.monotonic() + seconds
    while sum(map(_shut_down, _sockets(port))):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True


def _shut_down(connection: socket.socket) -> bool:
    if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        with contextlib.suppress(OSError):  # it has ended already
            connection.shutdown(socket.SHUT_RDWR)
    return True


def _sockets(port: int) -> Iterator[socket.socket]:
    """Iterate over sockets for those of this process that are bound to a port; each is closed again afterwards."""
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue  # no socket
        with connection, contextlib.suppress(OSError):
            inet = connection.family in (socket.AF_INET, socket.AF_INET6)
            if inet and connection.type == socket.SOCK_STREAM and connection.getsockname()[1] == port:
                yield connection

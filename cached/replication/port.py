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


def silence(port: int, seconds: float) -> bool:
    """Shut down who listens, and what was accepted, until all that was is closed; tell whether it came to that.

    Waits for at most so many seconds; blocks. Whoever reads from a connection finds its end, and closes it.
    """
    until, listening = time.monotonic() + seconds, set[int]()
    while _end_all(port, listening):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True


def _end_all(port: int, listening: set[int]) -> int:
    """Shut down what is bound to a port, and return how many connections are still to be closed by whom they belong to.

    `listening` are the inodes of sockets that have listened, and stay open; new ones are added.
    """
    left = 0
    for bound in _sockets(port):
        inode = os.fstat(bound.fileno()).st_ino
        if bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.add(inode)
        left += inode not in listening
        with contextlib.suppress(OSError):  # it has ended already
            bound.shutdown(socket.SHUT_RDWR)
    return left


def _sockets(port: int) -> Iterator[socket.socket]:
    """Iterate over sockets for those of this process that are bound to a port; each is closed again afterwards."""
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            bound = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue  # no socket
        with bound, contextlib.suppress(OSError):
            inet = bound.family in (socket.AF_INET, socket.AF_INET6)
            if inet and bound.type == socket.SOCK_STREAM and bound.getsockname()[1] == port:
                yield bound

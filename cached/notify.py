"""What the daemon and a service manager tell each other: readiness, and sockets that outlive the daemon.

systemd's protocols (sd_notify, LISTEN_FDS) are a datagram and three variables; without them everything here
does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

_FIRST: Final = 3


def ready(status: str) -> None:
    """Say that the daemon answers, and in a few words what it does."""
    _send(f"READY=1\nSTATUS={_line(status)}")


def status(text: str) -> None:
    """Say in a few words what the daemon does now."""
    _send(f"STATUS={_line(text)}")


def stopping() -> None:
    """Say that an orderly stop has begun."""
    _send("STOPPING=1")


def _line(text: str) -> str:
    return " ".join(text.split())


def _send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as outlet:
        try:
            outlet.connect("\0" + address[1:] if address[0] == "@" else address)
            outlet.sendall(message.encode())
        except OSError:
            return  # a manager that does not listen must not stop the node


def inherited(environ: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """Take over the listening sockets passed by the service manager: file name (`api.sock`) to socket.

    They do not block. The variables are removed, so that no child takes the sockets for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    for descriptor in range(_FIRST, _FIRST + int(count)):
        os.set_inheritable(descriptor, False)
        listening = socket.socket(fileno=descriptor)
        listening.setblocking(False)
        found[Path(str(listening.getsockname())).name] = listening
    return found

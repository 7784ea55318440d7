"""How far away the other end of a connection is, as the kernel measures it, whatever the programs do meanwhile."""

from __future__ import annotations

import asyncio
import socket
import sys

#: Where `tcpi_min_rtt`, in microseconds, ends in what TCP_INFO tells (linux/tcp.h).
_LENGTH = 152
#: What it says while nothing has been measured.
_UNKNOWN = 0xFFFFFFFF


def least_round_trip(transport: asyncio.Transport) -> float:
    """Return the least round trip that the kernel has seen, in seconds; 0 when it is not known."""
    try:
        told = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
    except (OSError, AttributeError):
        return 0.0
    microseconds = int.from_bytes(told[-4:], sys.byteorder) if len(told) == _LENGTH else 0
    return microseconds / 1e6 if microseconds < _UNKNOWN else 0.0

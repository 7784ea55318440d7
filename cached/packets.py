"""Packets on `data.sock`: one `SOCK_SEQPACKET` message each way, with descriptors attached.

Works on blocking and on non-blocking sockets: `BlockingIOError` passes through, and so does every other
`OSError`. Received descriptors are close-on-exec from the start (`socket.recv_fds` forgets that flag:
cpython issue 128881), and whatever does not fit is an error, never a silent loss.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from cached.errors import Busy, CachedError, UsageError

#: Largest packet, in bytes; the kernel's default send buffer takes a little over 200,000.
MAX_PACKET: Final = 190_000
#: Most descriptors in one packet: the kernel's SCM_MAX_FD.
MAX_DESCRIPTORS: Final = 253

_INT: Final = array.array("i").itemsize
_ONE: Final = struct.Struct("i")
#: Plain numbers: arithmetic on the flags of `socket` costs more than the system call.
_TRUNC: Final = int(socket.MSG_TRUNC)
_CUT: Final = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL: Final = int(socket.MSG_NOSIGNAL)
_SOCKET: Final = int(socket.SOL_SOCKET)
_RIGHTS: Final = int(socket.SCM_RIGHTS)
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT)


class _Buffers(threading.local):
    """One receive buffer a thread: a fresh one for each packet would cost 20 us of mmap and munmap."""

    def __init__(self) -> None:
        self.of_this_thread = memoryview(bytearray(MAX_PACKET))


_buffers = _Buffers()


class Packet(NamedTuple):
    """One message; whoever receives it owns the descriptors and closes them."""

    data: bytes
    descriptors: list[int]


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one packet; the descriptors stay the caller's. Raises `UsageError` for what does not fit."""
    if not 0 < len(data) <= MAX_PACKET:
        raise UsageError(f"a packet of {len(data)} bytes cannot be sent", hint=f"1 to {MAX_PACKET} bytes fit")
    if len(descriptors) > MAX_DESCRIPTORS:
        raise UsageError(
            f"{len(descriptors)} descriptors do not fit into one packet", hint=f"at most {MAX_DESCRIPTORS}"
        )
    if not descriptors:
        connection.send(data, _NOSIGNAL)
        return
    connection.sendmsg([data], [(_SOCKET, _RIGHTS, array.array("i", descriptors))], _NOSIGNAL)


def receive(
    connection: socket.socket, discard: Callable[[Sequence[int]], None] | None = None
) -> Packet | None:
    """Receive one packet, None when the other side closed. Raises `UsageError` or `Busy` if it was cut.

    `discard` closes the descriptors of what was cut; None: at once.
    """
    buffer = _buffers.of_this_thread
    size, ancillary, flags, _ = connection.recvmsg_into([buffer], _ANCILLARY, _CLOEXEC)
    descriptors = _descriptors(ancillary) if ancillary else []
    if flags & _CUT:
        (discard or close_all)(descriptors)
        raise _cut(flags)
    if size == 0:
        (discard or close_all)(descriptors)
        return None
    return Packet(bytes(buffer[:size]), descriptors)


def _cut(flags: int) -> CachedError:
    if flags & _TRUNC:
        return UsageError(f"a packet of more than {MAX_PACKET} bytes arrived")
    return Busy(
        "not all descriptors of a packet could be received",
        hint="raise the limit of open files (ulimit -n), or open fewer at once",
    )


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors, all of them, whatever the kernel says about one."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            continue


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    if len(ancillary) == 1:
        level, kind, payload = ancillary[0]
        if level == _SOCKET and kind == _RIGHTS and len(payload) == _INT:  # mostly
            return list(_ONE.unpack(payload))
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == _SOCKET and kind == _RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % _INT])
    return found.tolist()

"""A daemon that turns a client away says why, whatever the client was doing at that moment."""

from __future__ import annotations

import socket
import threading

import pytest
from cached import packets, wire
from cached.client import Client, CreateOptions
from cached.errors import DaemonUnreachable, Forbidden


def serve(listener: socket.socket, words: bytes) -> None:
    """Wait until the client's first packet lies unread, leave the words, and close: the client sees a reset."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1, socket.MSG_PEEK)
        if words:
            packets.send(connection, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(wire.encode({"v": 1, **Forbidden("who are you?").to_wire()}), Forbidden), (b"", DaemonUnreachable)],
)
def test_the_reason_is_read_also_after_the_connection_was_reset(tmp_path, words, expected):
    (tmp_path / "source").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "data.sock"))
        listener.listen()
        server = threading.Thread(target=serve, args=(listener, words))
        server.start()
        with Client(tmp_path, timeout=60) as client, pytest.raises(expected):
            client.create("nr", [tmp_path / "source"], CreateOptions())
        server.join()

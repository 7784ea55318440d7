"""The port that libtorrent listens on, and what is left there when a session ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading

import pytest
from cached.errors import CachedError
from cached.replication import port
from cached.replication.session import Session
from tests.replication.swarm_kit import Net, make_content, seeding
from tests.replication.tls_kit import Authority


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def met(server):
    """Return both ends of a connection."""
    near = socket.create_connection(server.getsockname())
    return near, server.accept()[0]


def test_nobody_listens_any_more_and_what_was_accepted_ends(listening):
    near, far = met(listening)

    def libtorrent() -> None:
        assert far.recv(1) == b""
        far.close()

    reader = threading.Thread(target=libtorrent)
    reader.start()
    assert port.silence(listening.getsockname()[1], 60.0)
    reader.join()
    assert near.recv(1) == b""
    near.close()
    with pytest.raises(OSError, match="Invalid argument"):
        listening.accept()


@pytest.mark.parametrize("has_left", [False, True])
def test_a_connection_that_nobody_closes_is_not_waited_for_any_longer_than_wanted(listening, has_left):
    near, far = met(listening)
    if has_left:
        near.close()
    assert not port.silence(listening.getsockname()[1], 0.05)
    far.close()
    near.close()


def test_other_connections_are_left_alone(listening):
    near, far = met(listening)
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
    assert port.silence(number, 0.0)
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    near.close()
    far.close()


def _close_among_strangers(root, hello: bytes) -> None:
    async def run() -> None:
        net, content = Net(), make_content(root / "src", {"a": 200_000})
        await seeding(net, root, content, tls=Authority().issue())
        strangers = [socket.create_connection((net.hosts["source"], net.ports["source"])) for _ in range(8)]
        for stranger in strangers:
            stranger.sendall(hello)
        await asyncio.sleep(0.2)
        await net.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "hello", [b"", bytes.fromhex("16030100c8010000c40303") + bytes(40)], ids=["silent", "half a hello"]
)
def test_a_session_ends_in_order_while_strangers_are_in_the_middle_of_their_handshake(tmp_path, hello):
    context = multiprocessing.get_context("spawn")  # what went wrong here ended the whole process
    process = context.Process(target=_close_among_strangers, args=(tmp_path, hello))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_a_session_that_could_not_listen_has_no_port_to_clear(listening, monkeypatch):
    cleared = []
    monkeypatch.setattr(port, "silence", lambda number, _: cleared.append(number) or True)
    session = Session(listen=f"127.0.0.1:{listening.getsockname()[1]}", node_id="one", tls=None)
    with pytest.raises(CachedError, match="cannot listen"):
        asyncio.run(session.open())
    assert cleared == []

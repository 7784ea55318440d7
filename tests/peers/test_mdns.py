from __future__ import annotations

import asyncio
import logging
import socket
import struct

import pytest
from cached.peers.mdns import Mdns


def loopback_multicasts() -> bool:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as say,
    ):
        try:
            hear.bind(("", 0))
            group = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1"))
            hear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            hear.settimeout(5)
            say.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            say.sendto(b"x", ("224.0.0.251", hear.getsockname()[1]))
            return hear.recv(1) == b"x"
        except OSError:
            return False


@pytest.mark.skipif(not loopback_multicasts(), reason="no multicast on loopback here")
def test_members_of_one_cluster_hear_of_each_other_and_of_nobody_else():
    async def scene():
        heard: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        nodes = [
            Mdns("one", "a" * 40, "127.0.0.1:1001", "127.0.0.1", heard["a"].append),
            Mdns("one", "b" * 40, "127.0.0.1:1002", "127.0.0.1", heard["b"].append),
            Mdns("two", "c" * 40, "127.0.0.1:1003", "127.0.0.1", heard["c"].append),
        ]
        for node in nodes:
            node.start()
        try:
            for _ in range(1200):
                if heard["a"] and heard["b"]:
                    break
                await asyncio.sleep(0.05)
        finally:
            for node in nodes:
                node.stop()
        await asyncio.to_thread(lambda: [node.join(60) for node in nodes])
        assert set(heard["a"]) == {"127.0.0.1:1002"}
        assert set(heard["b"]) == {"127.0.0.1:1001"}
        assert heard["c"] == []

    asyncio.run(scene())


def test_without_multicast_the_node_goes_on_and_says_so_once(caplog):
    async def scene():
        node = Mdns("one", "a" * 40, "192.0.2.1:1001", "192.0.2.1", lambda address: None)
        node.start()
        await asyncio.to_thread(node.join, 60)
        node.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scene())
    assert len([one for one in caplog.records if "mDNS" in one.message]) == 1

"""Dialling: a node that is dead costs a second, one that was just heard costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from cached.errors import PeerUnreachable
from cached.peers import client
from cached.peers.authority import init_cluster
from cached.peers.identity import Identity
from cached.peers.link import Link


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    init_cluster(path)
    return path


def identity(tmp_path: Path, name: str, key_file: Path | None) -> Identity:
    return Identity.open(tmp_path / name, key_file=key_file)


@contextlib.asynccontextmanager
async def linked(tmp_path, key_file, *names):
    links, owners = [], []
    for name in names:
        owners.append(identity(tmp_path, name, key_file))
        links.append(Link(owners[-1]))
        await links[-1].start("127.0.0.1:0")
    for link in links:
        for other, owner in zip(links, owners, strict=True):
            if other is not link:
                link.learned(owner.node_id, f"127.0.0.1:{other.port}", reachable=True)
    try:
        yield [(link, owner.node_id) for link, owner in zip(links, owners, strict=True)]
    finally:
        for link in links:
            await link.close()


async def echo(peer, body):
    return {"from": peer.node_id, "domains": sorted(peer.domains), "body": body}


def test_a_silent_node_is_knocked_at_and_one_that_takes_no_connection_is_given_up_before_a_handshake(
    tmp_path, key_file, monkeypatch
):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.handle("echo", echo)
            await a.call(b_id, "echo", {})
            knocks = []
            knock = a._client._knock

            async def counted(node_id):
                knocks.append(node_id)
                await knock(node_id)

            monkeypatch.setattr(a._client, "_knock", counted)
            await a.call(b_id, "echo", {})
            assert knocks == [], "who was heard a moment ago is not knocked at"
            a._routes[b_id].heard = float("-inf")
            await a.call(b_id, "echo", {})
            assert knocks == [b_id]
            monkeypatch.setattr(client, "KNOCK_SECONDS", 0.0)
            a._routes[b_id].heard = float("-inf")
            with pytest.raises(PeerUnreachable, match="cannot be dialled"):
                await a.call(b_id, "echo", {})

    asyncio.run(scene())

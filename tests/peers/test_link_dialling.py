"""Dialling: a node that is dead costs a second, one that was just heard costs nothing."""

from __future__ import annotations

import asyncio

import pytest
from cached.errors import PeerUnreachable
from cached.peers import client
from tests.peers.link_kit import echo, linked


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

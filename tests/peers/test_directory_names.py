"""Names of nodes: labels that are unique among those who live."""

from __future__ import annotations

import asyncio

from tests.peers.directory_kit import FAST, until


def test_of_two_nodes_with_one_name_the_later_gives_way(play):
    async def scene(cluster):
        first = await cluster.add("box")
        await asyncio.sleep(2 * FAST.same_start)
        second = await cluster.add("box")
        await until(lambda: second.directory.name == f"box-{second.id[:4]}")
        assert first.directory.name == "box"
        await until(lambda: first.directory.node(f"box-{second.id[:4]}") is not None)
        assert first.directory.node("box").record.id == first.id

    play(scene)


def test_many_nodes_of_one_name_that_start_together_all_get_their_own(play):
    async def scene(cluster):
        nodes = [await cluster.add("box") for _ in range(5)]
        await until(lambda: all(len(node.alive()) == 5 for node in nodes))
        await until(lambda: len({node.directory.name for node in nodes}) == 5)
        assert sum(node.directory.name == "box" for node in nodes) <= 1

    play(scene)

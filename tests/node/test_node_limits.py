"""Limits changed while a node runs, and who goes first."""

from __future__ import annotations

import asyncio

import pytest
from cached.errors import Forbidden
from cached.node import limits
from cached.node.flight import Flight
from cached.node.node import Node
from tests.node.fakes import caller, world

ADMIN = caller("root", admin=True)


class Heard:
    """A swarm's throttle that keeps what it was told."""

    def __init__(self) -> None:
        self.limits: list[tuple[int | None, int | None]] = []
        self.held: list[set[str]] = []
        self.total = (0, 0)

    def limit(self, upload: int | None, download: int | None) -> None:
        self.limits.append((upload, download))

    def hold(self, held: set[str], _rate: int) -> None:
        self.held.append(held)

    async def moved(self) -> tuple[int, int]:
        return self.total


def run(story, tmp_path) -> None:
    async def told() -> None:
        async with world(tmp_path) as w:
            node = await w.node("a")
            heard = node.swarm.throttle = Heard()  # type: ignore[assignment]
            task = asyncio.create_task(limits.run(node))
            await until(lambda: heard.limits)
            try:
                await story(node, heard)
            finally:
                task.cancel()

    asyncio.run(asyncio.wait_for(told(), 120))


async def until(holds) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def test_administrators_alone_change_limits_and_everybody_sees_them(tmp_path):
    async def story(node: Node, heard: Heard) -> None:
        assert heard.limits == [(None, None)]
        with pytest.raises(Forbidden, match="administrators"):
            await limits.change(node, caller("alice"), {"upload": 1})
        changed = await limits.change(node, ADMIN, {"upload": 1000})
        assert (changed.upload_bytes_per_second, changed.download_bytes_per_second) == (1000, None)
        assert not changed.configured
        assert await limits.show(node, caller("alice")) == changed
        await until(lambda: heard.limits[-1] == (1000, None))
        await limits.change(node, ADMIN, {"download": 5000})
        await until(lambda: heard.limits[-1] == (1000, 5000))
        assert (await limits.change(node, ADMIN, {"upload": None, "download": None})).configured
        await until(lambda: heard.limits[-1] == (None, None))

    run(story, tmp_path)


def test_the_swarm_is_left_what_streams_do_not_take_and_half_while_they_wait(tmp_path):
    async def story(node: Node, heard: Heard) -> None:
        await limits.change(node, ADMIN, {"upload": 100_000})
        await until(lambda: heard.limits[-1] == (100_000, None))
        takers = [asyncio.create_task(node.link.upload.take(100_000)) for _ in range(50)]
        await until(lambda: heard.limits[-1] == (50_000, None))
        for task in takers:
            task.cancel()
        await until(lambda: heard.limits[-1] == (100_000, None))

    run(story, tmp_path)


def test_what_the_swarm_moved_is_paid_for_by_the_streams(tmp_path):
    async def story(node: Node, heard: Heard) -> None:
        await limits.change(node, ADMIN, {"download": 1_000_000})
        await until(lambda: heard.limits[-1] == (None, 1_000_000))
        before, heard.total = len(heard.limits), (0, 2_000_000)
        await until(lambda: len(heard.limits) > before + 1)
        begun = asyncio.get_running_loop().time()
        await node.link.download.take(1)
        assert asyncio.get_running_loop().time() - begun > 0.5

    run(story, tmp_path)


def test_while_a_job_waits_all_other_transfers_are_held_and_released_afterwards(tmp_path):
    async def story(node: Node, heard: Heard) -> None:
        for number in (1, 2):
            node.transfers[f"{number}"] = Flight(set_id=f"{number}", content=f"content {number}", txid="")
        with node.jobs.wait("1"):
            await until(lambda: heard.held[-1] == {"content 2"})
            assert node.jobs.want("1")
            assert not node.jobs.want("2")
            with node.jobs.wait("gs://b/o"):
                assert node.jobs.waiting
            assert node.jobs.waiting
        assert not node.jobs.waiting
        await until(lambda: heard.held[-1] == set())
        node.transfers.clear()

    run(story, tmp_path)

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cached.errors import CachedError, NoSource, NoSpace
from tests.replication.swarm_kit import PIECE, Net, job_for, make_content, seeding


def test_without_a_holder_the_fetch_says_why_and_ends(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        swarm = await net.add(tmp_path, "one", patience=2.2)
        job = job_for(content, tmp_path / "dst", PIECE)
        with pytest.raises(NoSource) as error:
            await swarm.fetch(job, net.holders, "source")
        assert job.progress.reason
        assert job.progress.reason in error.value.message
        assert swarm.parameters(content.id) is None
        await net.close()

    asyncio.run(run())


def test_where_there_is_another_way_a_swarm_without_a_holder_is_given_up_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("cached.replication.transfer.IMPATIENT", 2.2)

    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        swarm = await net.add(tmp_path, "one", patience=3600.0)
        job = replace(job_for(content, tmp_path / "dst", PIECE), elsewhere=lambda: True)
        with pytest.raises(NoSource):
            await asyncio.wait_for(swarm.fetch(job, net.holders, "source"), 120)
        await net.close()

    asyncio.run(run())


def test_a_full_disk_fails_the_fetch(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        await seeding(net, tmp_path, content)
        swarm = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "dst", PIECE)
        (job.data / "a").symlink_to("/dev/full")
        with pytest.raises(NoSpace):
            await swarm.fetch(job, net.holders, "source")
        assert swarm.parameters(content.id) is None
        await net.close()

    asyncio.run(run())


def test_a_directory_that_cannot_be_written_fails_the_fetch(tmp_path):
    async def run() -> None:
        net, content = Net(), make_content(tmp_path / "src", {"a": 400_000})
        await seeding(net, tmp_path, content)
        swarm = await net.add(tmp_path, "one")
        job = job_for(content, tmp_path / "dst", PIECE)
        (job.data / "a").mkdir()
        with pytest.raises(CachedError, match=r"receiving failed|checking what is there failed"):
            await swarm.fetch(job, net.holders, "source")
        await net.close()

    asyncio.run(run())

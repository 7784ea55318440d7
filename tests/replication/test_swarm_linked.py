"""A fetch of which some files are there already, as links to those of other contents: only the rest travels."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil

import pytest
from cached.errors import IntegrityFailed
from tests.replication.swarm_kit import PIECE, Net, job_for, make_content, same, seeding

FILES = {
    "big/new": 1_000_000,
    "big/there": 2_000_000,
    **{f"mid/{index}": 100_000 for index in range(10)},
    **{f"small/{index}": 30_000 for index in range(20)},
    "twin": b"t" * 300_000,
    "twin too": b"t" * 300_000,
}
THERE = frozenset(
    {"big/there", "twin", "twin too", *(f"mid/{i}" for i in range(9)), *(f"small/{i}" for i in range(18))}
)


def linked(content, tmp_path, paths=THERE):
    """The job of a node that has these files in another content."""
    other, job = tmp_path / "other", job_for(content, tmp_path / "staging", PIECE)
    for path in paths:
        for folder in (other, job.data):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content.data / path, other / path)
        (other / path).chmod(0o444)
        os.utime(other / path, (1, 1))
        os.link(other / path, job.data / path)
    return other, dataclasses.replace(job, linked=frozenset(paths))


@pytest.fixture
def content(tmp_path):
    return make_content(tmp_path / "src", FILES)


async def fetch(net, content, job, tmp_path):
    await seeding(net, tmp_path, content)
    swarm = await net.add(tmp_path, "one")
    await swarm.fetch(job, net.holders, "source")
    return await swarm.stats(content.id)


def test_what_is_linked_does_not_travel_and_is_not_touched(tmp_path, content):
    async def run() -> None:
        net = Net()
        other, job = linked(content, tmp_path)
        moved = await fetch(net, content, job, tmp_path)
        assert same(content, job.data)
        new = sum(len((content.data / path).read_bytes()) for path in FILES if path not in THERE)
        assert new <= moved.downloaded <= new + 4 * PIECE, "of the pack, whole pieces travel"
        for path in THERE:
            facts = (other / path).stat()
            assert (facts.st_nlink, facts.st_mtime, facts.st_mode & 0o777) == (2, 1, 0o444)
        assert job.progress.bytes_present == job.progress.bytes_wanted
        await net.close()

    asyncio.run(run())


def test_a_content_of_which_all_is_there_needs_no_byte(tmp_path, content):
    async def run() -> None:
        net = Net()
        _, job = linked(content, tmp_path, frozenset(FILES))
        moved = await fetch(net, content, job, tmp_path)
        assert same(content, job.data)
        assert moved.downloaded == 0
        await net.close()

    asyncio.run(run())


@pytest.mark.parametrize("path", ["big/there", "mid/3", "small/7"])
def test_a_linked_file_that_is_damaged_ends_the_fetch_and_is_not_written_to(tmp_path, content, path):
    async def run() -> None:
        net = Net()
        other, job = linked(content, tmp_path)
        rotten = bytearray((other / path).read_bytes())
        rotten[20_000] ^= 1
        (other / path).chmod(0o600)
        (other / path).write_bytes(rotten)
        (other / path).chmod(0o444)
        with pytest.raises(IntegrityFailed) as refused:
            await fetch(net, content, job, tmp_path)
        assert (refused.value.details["path"], refused.value.details["linked"]) == (path, True)
        assert (other / path).read_bytes() == rotten
        await net.close()

    asyncio.run(run())

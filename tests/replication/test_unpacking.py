"""Small files are made while the rest of their pack comes; what libtorrent has not written yet is left for the end."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from cached.errors import CachedError, NoSpace
from cached.replication import layout, pack, unpacking
from cached.replication.torrent import Torrent
from tests.replication.swarm_kit import job_for, make_content, same

PIECE = 64 * 1024
FILES = {"big": 3 * PIECE + 1} | {f"d{number % 3}/f{number:02d}": 20_000 + number for number in range(60)}


class Coming:
    """A torrent of which pieces come as the test says, and the file that its pack comes into."""

    def __init__(self, folder) -> None:
        content = make_content(folder / "src", FILES)
        whole = folder / "whole"
        packed = pack.make(content.data, content.manifest, whole, PIECE)
        self.content, self.data = content, whole.read_bytes()
        self.job = job_for(content, folder / "dst", PIECE)
        self.torrent = Torrent(layout.build(content.id, content.manifest, content.leaves, PIECE, packed))
        self.pack = folder / "pack"
        self.pack.write_bytes(bytes(len(self.data)))
        self.count = -(-len(self.data) // PIECE)
        #: The pieces of the large file come first, the pack's after them.
        self.first = len(self.torrent.layout.piece_sizes) - self.count
        self.batches = list(pack.batches(content.manifest))

    def say(self, *pieces: int) -> None:
        """Let these pieces of the pack count as there."""
        for piece in pieces:
            self.torrent.have |= 1 << self.first + piece

    def write(self, *pieces: int) -> None:
        with self.pack.open("r+b") as file:
            for piece in pieces:
                file.seek(piece * PIECE)
                file.write(self.data[piece * PIECE : (piece + 1) * PIECE])

    def made(self) -> set[str]:
        return {entry.path for batch in self.batches for entry in batch.entries if self.is_made(entry.path)}

    def is_made(self, path: str) -> bool:
        return (self.job.data / path).exists()


@pytest.fixture
def coming(tmp_path, monkeypatch) -> Coming:
    monkeypatch.setattr(pack, "_CHUNK", 3 * PIECE)
    monkeypatch.setattr(unpacking, "LOOK", 0.005)
    return Coming(tmp_path)


async def looks(left: list[pack.Batch], count: int) -> None:
    """Wait until so many batches are left, and a moment longer: no others are to go."""
    async with asyncio.timeout(20):
        while len(left) > count:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    assert len(left) == count


def test_the_files_of_a_batch_are_made_as_soon_as_all_its_pieces_are_there(coming):
    async def story():
        total = len(coming.batches)
        assert total > 5
        async with unpacking.beside(coming.torrent, coming.pack, coming.job) as left:
            coming.torrent.have = (1 << coming.first) - 1  # the large file is no part of the pack
            await looks(left, total)
            coming.write(0, 1, 3, 4)
            coming.say(0, 1, 3, 4)
            await looks(left, total)
            coming.write(2)
            coming.say(2)
            await looks(left, total - 1)
            assert coming.made() == {entry.path for entry in coming.batches[0].entries}
            coming.write(*range(coming.count))
            coming.say(*range(coming.count))
            await looks(left, 0)
        assert coming.made() == set(FILES) - {"big"}

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(4))
def test_in_whatever_order_pieces_come_every_file_is_made_once(coming, monkeypatch, seed):
    written: list[str] = []
    write_new = pack.write_new

    def counted(parents, path, *args, **kwargs):
        written.append(path)
        write_new(parents, path, *args, **kwargs)

    monkeypatch.setattr(pack, "write_new", counted)
    chance = random.Random(seed)
    order = chance.sample(range(coming.count), coming.count)

    async def story():
        async with unpacking.beside(coming.torrent, coming.pack, coming.job) as left:
            for piece in order:
                coming.write(piece)
                coming.say(piece)
                await asyncio.sleep(chance.choice([0, 0.01]))
        pack.complete(coming.pack, coming.job, left)

    asyncio.run(story())
    coming.job.data.joinpath("big").write_bytes((coming.content.data / "big").read_bytes())
    assert same(coming.content, coming.job.data)
    assert sorted(written) == sorted(set(FILES) - {"big"})


def test_what_counts_as_there_but_is_not_in_the_file_yet_is_left_for_the_end(coming):
    async def story():
        async with unpacking.beside(coming.torrent, coming.pack, coming.job) as left:
            coming.write(*range(2, coming.count))
            coming.say(*range(coming.count))
            await looks(left, 1)
            coming.write(0, 1)  # one look is enough: there may be thousands
            await asyncio.sleep(0.05)
            assert [batch.at for batch in left] == [0]
        pack.complete(coming.pack, coming.job, left)
        assert coming.made() == set(FILES) - {"big"}

    asyncio.run(story())


def test_a_disk_that_is_full_is_met_when_all_is_there(coming, monkeypatch):
    unpack, tried = pack.unpack, []

    def full(*_):
        tried.append(1)
        raise NoSpace("full")

    async def story():
        monkeypatch.setattr(pack, "unpack", full)
        async with unpacking.beside(coming.torrent, coming.pack, coming.job) as left:
            coming.write(*range(coming.count))
            coming.say(*range(coming.count))
            while not tried:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
        assert len(tried) == 1
        assert [batch.at for batch in left] == [batch.at for batch in coming.batches]
        with pytest.raises(NoSpace):
            pack.complete(coming.pack, coming.job, left)
        monkeypatch.setattr(pack, "unpack", unpack)
        pack.complete(coming.pack, coming.job, left)
        assert coming.made() == set(FILES) - {"big"}

    asyncio.run(story())


@pytest.mark.parametrize("failing", [False, True])
def test_whoever_stops_waits_for_the_files_that_are_just_being_made(coming, monkeypatch, failing):
    unpack, under_way = pack.unpack, []

    def slow(*args):
        under_way.append(1)
        time.sleep(0.2)
        unpack(*args)
        under_way.pop()

    monkeypatch.setattr(pack, "unpack", slow)

    async def story():
        async with unpacking.beside(coming.torrent, coming.pack, coming.job) as left:
            coming.write(*range(coming.count))
            coming.say(*range(coming.count))
            while not under_way:
                await asyncio.sleep(0.005)
            if failing:
                raise CachedError("the transfer fails")
        return left

    if failing:
        with pytest.raises(CachedError, match="the transfer fails"):
            asyncio.run(story())
    else:
        assert 0 < len(asyncio.run(story())) < len(coming.batches)
    assert not under_way

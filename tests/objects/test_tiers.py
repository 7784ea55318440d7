"""Copies in memory and on disk: what comes in, what moves, what goes."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from cached.errors import IntegrityFailed
from cached.objects import tiers as module
from cached.objects.tiers import Tiers, Wanted
from cached.storage.objects import ObjectStore
from tests.objects.shelves import KB, Shelves, content, key, waited

PATIENCE = 60


@pytest.fixture
def shelves(tmp_path: Path) -> Shelves:
    return Shelves(tmp_path, memory=64 * KB, disk=256 * KB)


@waited
async def test_the_first_read_is_kept_on_disk_and_the_second_moves_it_to_memory(shelves):
    assert [await shelves.read("a", 9 * KB) for _ in range(3)] == ["origin", "disk", "memory"]
    assert shelves.where("a") == {"memory", "disk"}
    assert shelves.news() == [("admitted", "disk", ""), ("admitted", "memory", "")]
    shelves.check_idle()


@waited
async def test_what_somebody_asks_for_in_memory_goes_there_at_once(shelves):
    await shelves.fetch("a", KB, flagged=True)
    assert shelves.where("a") == {"memory"}


@waited
async def test_one_object_takes_no_more_than_a_quarter_of_memory(shelves):
    assert [await shelves.read("a", 17 * KB, flagged=True) for _ in range(3)] == ["origin", "disk", "disk"]


@waited
async def test_what_is_larger_than_every_tier_is_read_through(shelves):
    assert await shelves.read("a", 257 * KB) == "through"
    assert shelves.news() == [("refused", None, "")]
    shelves.check_idle()


@waited
async def test_a_full_disk_makes_room_for_what_is_new_and_forgets_what_was_not_used_for_longest(shelves):
    for number in range(16):
        await shelves.read(f"o{number}", 16 * KB)
    await shelves.read("o0", 16 * KB)
    shelves.news()
    await shelves.read("new", 30 * KB)
    assert shelves.where("o0") == {"memory"}
    assert not shelves.where("o1")
    assert shelves.news() == [("gone", "disk", "twin"), ("gone", "disk", "room"), ("admitted", "disk", "")]
    shelves.check_idle()


@waited
async def test_what_leaves_memory_goes_down_to_disk_when_it_has_no_copy_there(shelves):
    for number in range(4):
        await shelves.fetch(f"o{number}", 16 * KB, flagged=True)
    assert shelves.where("o0") == {"memory"}
    await shelves.fetch("new", 16 * KB, flagged=True)
    assert shelves.where("o0") == {"disk"}
    assert ("gone", "memory", "twin") in shelves.news()
    assert await shelves.read("o0", 16 * KB) == "disk"
    shelves.check_idle()


@waited
async def test_what_is_being_read_is_never_evicted(shelves):
    for number in range(16):
        await shelves.fetch(f"o{number}", 16 * KB)
    copies = [shelves.open(f"o{number}") for number in range(15)]
    assert await shelves.fetch("large", 33 * KB) is None
    assert await shelves.fetch("small", 16 * KB) is not None
    assert not shelves.where("o15")
    assert all(shelves.where(f"o{number}") for number in range(15))
    for copy in copies:
        shelves.close(copy)
    assert await shelves.fetch("large", 33 * KB) is not None
    shelves.check_idle()


@waited
async def test_a_copy_that_is_cleared_while_it_is_read_is_read_to_the_end_and_takes_room_until_then(shelves):
    await shelves.fetch("a", 200 * KB)
    copy = shelves.open("a")
    assert await shelves.tiers.clear(lambda _: True, "cleared") == (1, 200 * KB)
    assert shelves.open("a") is None
    assert await shelves.fetch("b", 100 * KB) is None
    assert os.pread(copy.fd, KB, 0) == content("a", KB)
    shelves.close(copy)
    await shelves.tiers.reap()
    assert await shelves.fetch("b", 100 * KB) is not None
    shelves.check_idle()


@waited
async def test_a_user_clears_copies_that_nobody_else_read(shelves):
    await shelves.fetch("mine", KB)
    await shelves.fetch("ours", KB)
    shelves.close(shelves.open("ours", user="bob"))
    assert (await shelves.tiers.clear(lambda _: True, "cleared", user="ada"))[0] == 1
    assert (shelves.where("mine"), shelves.where("ours")) == (set(), {"disk"})
    assert shelves.tiers.lookup(key("ours").digest).users == ("bob",)
    assert (await shelves.tiers.clear(lambda _: True, "cleared", user="eve"))[0] == 0
    assert (await shelves.tiers.clear(lambda one: one.scope == "x", "scope"))[0] == 0


@waited
async def test_abandoned_files_and_wrong_sizes_leave_nothing(shelves):
    filling = await shelves.tiers.reserve(Wanted(key=key("a"), size=20 * KB))
    shelves.check()
    await shelves.tiers.abandon(filling)
    filling = await shelves.tiers.reserve(Wanted(key=key("a"), size=20 * KB))
    os.ftruncate(filling.writing.fd, 1)
    with pytest.raises(IntegrityFailed):
        await shelves.tiers.seal(filling, 0, 1.0)
    await shelves.tiers.abandon(filling)
    assert not shelves.where("a")
    shelves.check_idle()


@waited
async def test_the_same_object_written_twice_at_once_is_kept_once(shelves):
    fillings = [await shelves.tiers.reserve(Wanted(key=key("a"), size=8 * KB), "disk") for _ in range(2)]
    for filling in fillings:
        filling.writing.write(content("a", 8 * KB), 0)
    first, second = [await shelves.tiers.seal(filling, 1, 1.0) for filling in fillings]
    assert first is second
    assert shelves.tiers.index.rooms["disk"].used == 8 * KB
    shelves.check_idle()


@waited
async def test_blocks_of_an_object_are_copies_of_their_own(shelves):
    filling = await shelves.tiers.reserve(Wanted(key=key("a"), size=KB, block=2))
    entry = await shelves.tiers.seal(filling, 1, 1.0)
    assert entry.name == f"{key('a').digest}.2"
    assert shelves.open("a") is None
    assert shelves.tiers.lookup(entry.name).block == 2


@waited
async def test_a_full_file_system_is_a_refusal_that_says_so(shelves, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert await shelves.read("a", KB) == "through"
    assert shelves.news() == [("refused", "disk", "full"), ("refused", None, "")]
    shelves.check_idle()


@waited
async def test_a_file_that_has_vanished_is_a_miss_and_its_room_comes_back(shelves):
    await shelves.read("a", KB)
    shelves.stores["disk"].remove(key("a").digest)
    assert await shelves.read("a", KB) == "origin"
    assert ("gone", "disk", "lost") in shelves.news()
    shelves.check_idle()


@waited
async def test_a_copy_from_an_earlier_boot_is_verified_before_it_moves_up(shelves):
    await shelves.fetch("a", KB)
    await shelves.restart(boot="next")
    for _ in range(3):
        shelves.close(shelves.open("a"))
    entry = shelves.tiers.lookup(key("a").digest)
    assert not shelves.tiers.is_verified(entry)
    assert not await shelves.tiers.promote(entry)
    shelves.tiers.verified(entry)
    assert await shelves.tiers.promote(entry)
    assert not await shelves.tiers.promote(entry)


@waited
async def test_after_a_restart_everything_is_where_it_was_and_what_nobody_knows_is_removed(shelves):
    for name in ("a", "b", "c"):
        await shelves.read(name, 10 * KB)
    await shelves.read("a", 10 * KB)
    rows = [row for row in shelves.tiers.entries() if row.key.name != "c"]
    shelves.news()
    await shelves.restart(rows=rows)
    assert (shelves.where("a"), shelves.where("b"), shelves.where("c")) == (
        {"memory", "disk"},
        {"disk"},
        set(),
    )
    assert shelves.news() == [("gone", "disk", "unknown")]
    assert sorted(shelves.tiers.entries(), key=lambda row: row.name) == sorted(rows, key=lambda row: row.name)
    shelves.check_idle()


@waited
async def test_after_a_restart_with_a_smaller_disk_what_was_used_last_stays(shelves):
    for now, name in enumerate("abcd"):
        await shelves.fetch(name, 20 * KB)
        shelves.close(shelves.open(name, now=now + 10.0))
    shelves.caps["disk"] = 50 * KB
    shelves.news()
    await shelves.restart()
    assert [name for name in "abcd" if shelves.where(name)] == ["c", "d"]
    assert shelves.news() == [("gone", "disk", "smaller")] * 2
    shelves.check_idle()


@waited
async def test_a_row_whose_file_has_another_size_is_not_believed(shelves):
    entry = await shelves.fetch("a", 8 * KB)
    path = shelves.stores["disk"].path / entry.name
    path.chmod(0o600)
    os.truncate(path, 5)
    await shelves.restart()
    assert not shelves.where("a")
    shelves.check_idle()


@pytest.mark.parametrize("caps", [{"memory": 64 * KB, "disk": None}, {"memory": None, "disk": 64 * KB}])
@waited
async def test_a_node_with_one_tier_keeps_all_it_can_there(tmp_path, caps):
    shelves = Shelves(tmp_path, **caps)
    (tier,) = shelves.caps
    assert [await shelves.read("a", 60 * KB) for _ in range(2)] == ["origin", tier]
    assert await shelves.read("b", 60 * KB) == "origin"
    assert not shelves.where("a")
    shelves.check_idle()


@waited
async def test_a_node_without_tiers_reads_through(tmp_path):
    tiers = Tiers({}, {}, "boot")
    assert await tiers.reserve(Wanted(key=key("a"), size=1)) is None
    assert tiers.open(key("a").digest, "ada", 1.0) is None


class Slow(ObjectStore):
    """A store in which one step waits until it may go on."""

    def __init__(self, root: Path, step: str) -> None:
        super().__init__(root)
        self.step, self.come, self.go = step, threading.Event(), threading.Event()

    def _wait(self, step: str) -> None:
        if step == self.step:
            self.come.set()
            assert self.go.wait(PATIENCE)

    def create(self, name, size):
        self._wait("create")
        return super().create(name, size)

    def erase(self, doomed):
        self._wait("erase")
        super().erase(doomed)


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("step", ["create", "erase"])
@waited
async def test_who_is_cancelled_leaves_neither_files_nor_room_behind(tmp_path, step):
    store = Slow(tmp_path, step)
    tiers = Tiers({"disk": store}, {"disk": 64 * KB}, "boot")
    room = tiers.index.rooms["disk"]

    async def work() -> None:
        filling = await tiers.reserve(Wanted(key=key("a"), size=KB))
        entry = await tiers.seal(filling, 1, 1.0)
        await tiers.remove(entry, "cleared")

    task = asyncio.create_task(work())
    await until(store.come.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert room.used + room.reserved > 0
    store.go.set()
    await until(lambda: room.reserved == 0 and room.used == 0)
    assert os.listdir(store.path) == []
    assert tiers.lookup(key("a").digest) is None


@waited
async def test_a_copy_that_is_cleared_while_it_moves_up_does_not_come_back(shelves, monkeypatch):
    come, go = threading.Event(), threading.Event()
    real = module._copied

    def slowly(*args):
        come.set()
        assert go.wait(PATIENCE)
        return real(*args)

    await shelves.fetch("a", KB)
    for _ in range(2):
        shelves.close(shelves.open("a"))
    entry = shelves.tiers.lookup(key("a").digest)
    monkeypatch.setattr(module, "_copied", slowly)
    moving = asyncio.create_task(shelves.tiers.promote(entry))
    await until(come.is_set)
    await shelves.tiers.remove(entry, "cleared")
    go.set()
    assert not await moving
    assert not shelves.where("a")
    async with asyncio.timeout(PATIENCE):
        while shelves.tiers.leaving():  # who looks whether a file is open has it open, for a moment
            await shelves.tiers.reap()
    shelves.check_idle()
    assert all(room.used == 0 for room in shelves.tiers.index.rooms.values())


@waited
async def test_many_readers_at_once_never_exceed_the_caps(shelves):
    async def job(number: int) -> None:
        for step in range(6):
            name = f"o{(number * 7 + step * 5) % 40}"
            await shelves.read(name, 5 * KB + 700 * int(name[1:]))
            shelves.check()

    await asyncio.gather(*(job(number) for number in range(24)))
    shelves.check_idle()
    assert shelves.tiers.index.rooms["disk"].free < 40 * KB

"""A disk that fails under the cache costs copies, and no reader: Cloud Storage has it all."""

import errno
import os

import pytest
from cached.addresses import parse
from cached.objects import proof
from cached.objects.assembly import Assembly
from cached.storage import files
from tests.objects.cache_kit import MB, ada, content
from tests.objects.test_read import scene
from tests.objects.test_write_and_clear import written

HERE = parse("gs://genomes/chr1")
EIO = OSError(errno.EIO, os.strerror(errno.EIO))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing(error):
    def fail(*_):
        raise files.told(error, "a file of the cache")

    return fail


def empty(cache):
    return all(room.used == room.reserved == 0 for room in cache.tiers.index.rooms.values())


def test_a_copy_that_the_disk_cannot_read_any_more_is_brought_again(tmp_path, monkeypatch):
    def fail(*_):
        raise EIO

    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        await content(cache, ada(), HERE)
        cache.tiers.boot = "another boot"
        with monkeypatch.context() as patch:
            patch.setattr(proof, "crc_of", fail)
            assert await content(cache, ada(), HERE) == (b"bytes", "origin")
        assert cache.counts["objects.damaged"] == 1
        assert (await content(cache, ada(), HERE))[1] in ("disk", "memory")

    scene(tmp_path, body)


@pytest.mark.parametrize("error", [EIO, READ_ONLY])
def test_where_no_file_can_be_made_objects_are_read_through(tmp_path, error):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        cache.tiers._stores["disk"].create = failing(error)
        assert await content(cache, ada(), HERE) == (None, "origin")
        assert empty(cache)

    scene(tmp_path, body, memory=0)


@pytest.mark.parametrize("error", [EIO, FULL])
def test_what_cannot_be_written_to_its_end_is_read_through(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        monkeypatch.setattr(Assembly, "_written", fail)
        assert await content(cache, ada(), HERE) == (None, "origin")
        assert cache.counts["objects.store_failed"] == 1
        assert empty(cache)

    scene(tmp_path, body)


def test_memory_makes_room_although_the_disk_takes_nothing_down(tmp_path):
    async def body(made, cache):
        for number in range(6):
            made.origin.store("genomes", f"{number}", bytes(MB // 8))
        cache.tiers._stores["disk"].create = failing(READ_ONLY)
        for number in range(6):
            address = parse(f"gs://genomes/{number}")
            assert (await content(cache, ada(), address, keep="memory"))[0] == bytes(MB // 8)
        assert cache.tiers.taken("disk") == 0

    scene(tmp_path, body, memory=MB // 2)


def test_what_cannot_be_removed_keeps_nobody_from_reading(tmp_path):
    async def body(made, cache):
        for number in range(2):
            made.origin.store("genomes", f"{number}", bytes(MB // 2))
        await content(cache, ada(), parse("gs://genomes/0"))
        cache.tiers._stores["disk"].retire = failing(READ_ONLY)
        assert await content(cache, ada(), parse("gs://genomes/1")) == (None, "origin")
        assert (await content(cache, ada(), parse("gs://genomes/0")))[1] == "disk"

    scene(tmp_path, body, memory=0, disk=MB * 3 // 4)


def test_what_was_written_over_is_given_to_nobody_although_the_disk_does_not_let_go_of_it(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"old")
        await content(cache, ada(), HERE)
        cache.tiers._stores["disk"].retire = failing(READ_ONLY)
        await written(cache, ada(), HERE, b"new")
        assert (await content(cache, ada(), HERE))[0] == b"new"
        assert len(cache.tiers.index) == 1
        assert cache.tiers.taken("disk") == 2 * 4096

    scene(tmp_path, body, memory=0)

"""Reading objects: one node."""

import asyncio
import os

import pytest
from cached.addresses import Address, parse
from cached.errors import Forbidden, IntegrityFailed, NotFound, OriginChanged, OriginUnavailable
from cached.objects.read import open_now, open_object, stat
from cached.objects.through import read_through
from tests.objects.cache_kit import ada, bob, content, town

HERE = parse("gs://genomes/chr1")


def scene(tmp_path, body, count=1, **settings):
    async def inside():
        async with town(tmp_path, count, **settings) as (made, nodes):
            await body(made, *nodes)

    asyncio.run(inside())


def test_the_first_reader_brings_it_and_the_second_costs_the_origin_one_question(tmp_path):
    data = os.urandom(200_000)

    async def body(made, cache):
        made.origin.store("genomes", "chr1", data)
        assert await content(cache, ada(), HERE) == (data, "origin")
        media, stats = made.origin.counts["media"], made.origin.counts["stat"]
        assert (await content(cache, bob(), HERE))[0] == data
        assert made.origin.counts["media"] == media
        assert made.origin.counts["stat"] == stats + 1
        assert cache.account.hits.bytes == len(data)

    scene(tmp_path, body)


def test_an_overwritten_object_is_read_as_it_is_now_and_the_old_copy_goes(tmp_path):
    async def body(made, cache):
        old = made.origin.store("genomes", "chr1", b"old" * 1000)
        assert (await content(cache, ada(), HERE))[0] == b"old" * 1000
        made.origin.store("genomes", "chr1", b"new" * 1000)
        assert (await content(cache, ada(), HERE))[0] == b"new" * 1000
        while cache.background:
            await asyncio.sleep(0.01)
        assert [entry.key.generation for entry in cache.tiers.index] != [old.generation]
        assert len(cache.tiers.index) == 1

    scene(tmp_path, body)


def test_a_pinned_generation_is_that_one_or_an_error(tmp_path):
    async def body(made, cache):
        old = made.origin.store("genomes", "chr1", b"old")
        pinned = HERE.pinned(old.generation)
        assert (await content(cache, ada(), pinned))[0] == b"old"
        made.origin.store("genomes", "chr1", b"new")
        with pytest.raises((OriginChanged, NotFound)):
            await content(cache, ada(), pinned)

    scene(tmp_path, body)


def test_who_is_denied_gets_nothing_although_a_copy_is_here(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"secret")
        made.origin.allow("genomes", "tok-ada")
        assert (await content(cache, ada(), HERE))[0] == b"secret"
        with pytest.raises(Forbidden, match="chr1"):
            await content(cache, bob(), HERE)
        with pytest.raises(Forbidden):
            await content(cache, ada(""), HERE)

    scene(tmp_path, body)


def test_nothing_is_served_when_cloud_storage_cannot_be_asked(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        assert (await content(cache, ada(), HERE))[0] == b"bytes"

        async def down(kind, address):
            raise OriginUnavailable(f"{address}: no answer")

        made.origin.before = down
        with pytest.raises(OriginUnavailable):
            await content(cache, ada(), HERE)

    scene(tmp_path, body)


def test_within_the_window_only_who_was_allowed_is_not_asked_about(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        assert open_now(cache, ada(), HERE) is None
        await content(cache, ada(), HERE)
        asked = made.origin.counts["stat"]
        opened = open_now(cache, ada(), HERE)
        assert opened is not None
        assert os.pread(opened.fd, 10, 0) == b"bytes"
        os.close(opened.fd)
        cache.tiers.release(opened.entry)
        assert open_now(cache, bob(), HERE) is None
        assert made.origin.counts["stat"] == asked

    scene(tmp_path, body, window=60.0)


def test_a_deleted_object_is_not_found_and_its_copy_goes(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes")
        await content(cache, ada(), HERE)
        await made.origin.delete(HERE, token=None)
        with pytest.raises(NotFound):
            await content(cache, ada(), HERE)
        while cache.background:
            await asyncio.sleep(0.01)
        assert len(cache.tiers.index) == 0

    scene(tmp_path, body)


def test_forty_readers_at_once_cost_one_fetch_and_a_reader_who_leaves_takes_nothing_from_the_others(tmp_path):
    data = os.urandom(500_000)

    async def body(made, cache):
        made.origin.store("genomes", "chr1", data)
        readers = [asyncio.create_task(content(cache, ada(), HERE)) for _ in range(40)]
        await asyncio.sleep(0)
        readers[0].cancel()
        answers = await asyncio.gather(*readers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(answer[0] == data for answer in answers[1:])
        assert made.origin.stats.bytes_in == len(data)

    scene(tmp_path, body)


def test_when_all_readers_leave_nothing_is_fetched_any_more_and_nothing_is_left(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", bytes(2_000_000))
        begun, never = asyncio.Event(), asyncio.Event()

        async def slow(kind, address):
            if kind == "media":
                begun.set()
                await never.wait()

        made.origin.before = slow
        reading = asyncio.create_task(content(cache, ada(), HERE))
        await begun.wait()
        reading.cancel()
        await asyncio.wait({reading})
        while cache.flights:
            await asyncio.sleep(0.01)
        assert len(cache.tiers.index) == 0
        assert all(room.used == room.reserved == 0 for room in cache.tiers.index.rooms.values())

    scene(tmp_path, body)


def test_another_reader_s_expired_token_does_not_fail_this_one(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"x" * 300_000)
        made.origin.allow("genomes", "tok-ada")
        made.origin.allow("genomes", "tok-bob")
        waiting = asyncio.Event()

        async def expire(kind, address):
            if kind == "media" and made.origin.asked[-1][1] == "tok-ada":
                await waiting.wait()
                made.origin.expire("tok-ada")

        made.origin.before = expire
        first = asyncio.create_task(content(cache, ada(), HERE))
        while made.origin.counts["media"] == 0:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(content(cache, bob(), HERE))
        while made.origin.counts["stat"] < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        waiting.set()
        answers = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(answers[0], Forbidden)
        assert answers[1][0] == b"x" * 300_000

    scene(tmp_path, body)


def test_what_does_not_fit_is_read_through_and_the_caps_hold(tmp_path):
    data = os.urandom(300_000)

    async def body(made, cache):
        made.origin.store("genomes", "chr1", data)
        opened = await open_object(cache, ada(), HERE)
        assert (opened.fd, opened.entry) == (-1, None)
        got = b"".join([piece async for piece in read_through(cache, ada(), opened.pinned, 10, 250_000)])
        assert got == data[10:250_000]
        assert cache.counts["objects.read_through"] == 1
        reads = cache.account.misses.reads
        again = await open_object(cache, ada(), HERE, keep="again")
        assert (again.fd, again.entry) == (-1, None)
        for start in (0, 100_000, 200_000):
            part = read_through(cache, ada(), opened.pinned, start, start + 100_000)
            assert b"".join([piece async for piece in part]) == data[start : start + 100_000]
        assert cache.account.misses.reads == reads + 1, "parts of one read"
        assert cache.counts["objects.read_through"] == 1
        assert all(room.used + room.reserved <= room.cap for room in cache.tiers.index.rooms.values())

    scene(tmp_path, body, memory=100_000, disk=200_000)


def test_wrong_bytes_are_an_error_and_are_not_kept(tmp_path):
    async def body(made, cache):
        pinned = made.origin.store("genomes", "chr1", b"x" * 100_000, crc32c=7)
        with pytest.raises(IntegrityFailed, match="chr1"):
            await content(cache, ada(), HERE)
        assert pinned.crc32c == 7
        assert len(cache.tiers.index) == 0

    scene(tmp_path, body)


def test_a_copy_that_rotted_over_a_boot_is_found_and_brought_anew(tmp_path):
    data = os.urandom(100_000)

    async def body(made, cache):
        made.origin.store("genomes", "chr1", data)
        await content(cache, ada(), HERE)
        (entry,) = cache.tiers.index
        entry.boot = "an earlier one"
        (path,) = [file for file in tmp_path.rglob(f"{entry.name}*") if file.is_file()]
        path.chmod(0o600)
        path.write_bytes(b"\0" + data[1:] if data[0] else b"\1" + data[1:])
        assert await content(cache, ada(), HERE) == (data, "origin")
        assert cache.counts["objects.damaged"] == 1

    scene(tmp_path, body)


def test_an_owner_s_copy_is_not_another_user_s(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"bytes" * 100)
        await content(cache, ada(), HERE)
        media = made.origin.counts["media"]
        assert await content(cache, bob(), HERE) == (b"bytes" * 100, "origin")
        assert made.origin.counts["media"] == 2 * media

    scene(tmp_path, body, sharing="owner")


def test_an_empty_object_is_read_like_any_other(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "none", b"")
        assert (await content(cache, ada(), Address("genomes", "none")))[0] == b""
        assert (await content(cache, ada(), Address("genomes", "none")))[0] == b""
        assert (await stat(cache, ada(), Address("genomes", "none"))).size == 0

    scene(tmp_path, body)


def test_a_token_is_in_no_text_about_its_reader():
    assert "tok-ada" not in repr(ada()) + str(ada())

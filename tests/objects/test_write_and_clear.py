"""Writing objects through, and emptying the cache."""

import asyncio
import contextlib
import os
import random
import threading

import pytest
from cached.addresses import parse
from cached.errors import Busy, Forbidden, OriginChanged, TimedOut
from cached.hands import Hands
from cached.objects import sweep as sweeping_module
from cached.objects import write as write_module
from cached.objects.cache import Reader
from cached.objects.clear import clear_everywhere
from cached.objects.neighbours import Clear
from cached.objects.read import open_object
from cached.objects.sweep import end_left_behind, run, sweep
from cached.objects.through import read_through
from cached.objects.write import Wish, put
from cached.origin.crc import crc32c
from tests.objects.cache_kit import ada, bob, content
from tests.objects.test_read import scene

HERE = parse("gs://genomes/chr1")


def memory(data):
    fd = os.memfd_create("what is put")
    os.write(fd, data)
    return fd


async def written(cache, reader, address, data, **wish):
    fd = memory(data)
    try:
        return await put(cache, reader, address, fd, Wish(**wish))
    finally:
        os.close(fd)


async def whole(cache, reader, address):
    """Read all bytes; what is replaced while it is read is an error, never a mixture, and is asked for again."""
    while True:
        with contextlib.suppress(OriginChanged):
            opened = await open_object(cache, reader, address)
            if opened.fd < 0:
                pieces = read_through(cache, reader, opened.pinned, 0, opened.pinned.size)
                return b"".join([piece async for piece in pieces])
            data = os.pread(opened.fd, opened.pinned.size + 1, 0)
            os.close(opened.fd)
            cache.tiers.release(opened.entry)
            return data


def test_what_was_put_is_in_cloud_storage_and_here_and_costs_no_read(tmp_path):
    async def body(made, cache):
        made.origin.bucket("genomes")
        pinned = await written(cache, ada(), HERE, b"bytes" * 1000, content_type="text/plain")
        assert made.origin.content("genomes", "chr1") == b"bytes" * 1000
        assert (await content(cache, bob(), HERE))[0] == b"bytes" * 1000
        assert made.origin.counts["media"] == 0
        assert pinned.generation > 0

    scene(tmp_path, body)


def test_after_a_put_no_node_reads_the_old_one_even_within_the_window(tmp_path):
    async def body(made, *nodes):
        made.origin.store("genomes", "chr1", b"old")
        for node in nodes:
            assert (await content(node, ada(), HERE))[0] == b"old"
        await written(nodes[0], ada(), HERE, b"new")
        for node in nodes:
            assert (await content(node, ada(), HERE))[0] == b"new"

    scene(tmp_path, body, count=3, window=60.0)


def test_a_node_that_has_long_been_cut_off_reads_nothing_old_either(tmp_path):
    async def body(made, writer, lost, _third):
        made.origin.store("genomes", "chr1", b"old")
        made.cut_off.add(lost.neighbours.me)
        assert (await content(lost, ada(), HERE))[0] == b"old"
        await written(writer, ada(), HERE, b"new")
        assert (await content(lost, ada(), HERE))[0] == b"new"
        assert not writer.counts["objects.waited_for_silent"]

    scene(tmp_path, body, count=3, window=60.0)


def test_a_node_that_has_long_been_cut_off_waits_for_the_others_before_it_says_that_it_has_written(tmp_path):
    async def body(made, lost, reader, _third):
        made.origin.store("genomes", "chr1", b"old")
        made.cut_off.add(lost.neighbours.me)
        assert (await content(reader, ada(), HERE))[0] == b"old"
        await written(lost, ada(), HERE, b"new")
        assert (await content(reader, ada(), HERE))[0] == b"new"
        assert lost.counts["objects.waited_for_silent"] == 1

    scene(tmp_path, body, count=3, window=0.3)


def test_a_condition_that_does_not_hold_changes_nothing(tmp_path):
    async def body(made, cache):
        old = made.origin.store("genomes", "chr1", b"old")
        with pytest.raises(OriginChanged):
            await written(cache, ada(), HERE, b"new", if_generation=0)
        assert (await content(cache, ada(), HERE))[0] == b"old"
        await written(cache, ada(), HERE, b"new", if_generation=old.generation)
        assert (await content(cache, ada(), HERE))[0] == b"new"

    scene(tmp_path, body)


def test_who_may_not_write_does_not_although_he_may_read(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"old")
        made.origin.allow("genomes", "tok-ada", write=False)
        with pytest.raises(Forbidden):
            await written(cache, ada(), HERE, b"new")
        assert (await content(cache, ada(), HERE))[0] == b"old"

    scene(tmp_path, body)


def test_clear_empties_one_s_own_copies_on_all_nodes_and_leaves_those_of_others(tmp_path):
    async def body(made, one, other):
        for name in ("a/1", "a/2", "b/1"):
            made.origin.store("genomes", name, name.encode() * 100)
        for node in (one, other):
            for name in ("a/1", "a/2", "b/1"):
                await content(node, ada(), parse(f"gs://genomes/{name}"))
        await content(one, bob(), parse("gs://genomes/a/2"))
        done = await clear_everywhere(one, Clear(user="ada", bucket="genomes", prefix="a/"))
        assert set(done) == {one.neighbours.me, other.neighbours.me}
        left = {entry.key.name for entry in one.tiers.index if entry.block is None}
        assert left == {"a/2", "b/1"}
        media = made.origin.counts["media"]
        await content(one, ada(), parse("gs://genomes/b/1"))
        assert made.origin.counts["media"] == media

    scene(tmp_path, body, count=2)


def test_the_sweep_lets_go_of_what_is_gone_from_cloud_storage(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"one")
        made.origin.store("genomes", "chr2", b"two")
        await content(cache, ada(), HERE)
        await content(cache, ada(), parse("gs://genomes/chr2"))
        await made.origin.delete(HERE, token=None)
        await sweep(cache, [])
        assert [entry.key.name for entry in cache.tiers.index] == ["chr2"]

    scene(tmp_path, body)


def test_the_sweep_asks_about_every_object_once_before_it_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping_module, "ROUND", 2)

    async def body(made, cache):
        for number in range(5):
            made.origin.store("genomes", f"{number}", b"x")
            await content(cache, ada(), parse(f"gs://genomes/{number}"))
        del made.origin.asked[:]
        left = []
        for _ in range(3):
            await sweep(cache, left)
        assert sorted(address.name for _, _, address in made.origin.asked) == ["0", "1", "2", "3", "4"]
        await sweep(cache, left)
        assert len(made.origin.asked) == 7
        for entry in cache.tiers.index:
            await cache.tiers.remove(entry, "cleared")
        await sweep(cache, left)
        assert len(made.origin.asked) == 7

    scene(tmp_path, body)


def test_the_sweep_goes_on_after_an_error_that_nobody_expected(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"one")
        await content(cache, ada(), HERE)
        await made.origin.delete(HERE, token=None)
        real, failed = cache.tiers.clear, asyncio.Event()

        async def clear(*_):
            cache.tiers.clear = real
            failed.set()
            raise RuntimeError("broken")

        cache.tiers.clear = clear
        sweeping = asyncio.create_task(run(cache, lease=3600, every=0.01))
        while len(cache.tiers.index):
            assert not sweeping.done()
            await asyncio.sleep(0.01)
        assert failed.is_set()
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)

    scene(tmp_path, body)


def test_a_storm_of_writers_and_readers_never_shows_an_old_or_mixed_object(tmp_path):
    """Each object's bytes name its version; a reader must see at least the version that was there when it began."""
    dice = random.Random(7)

    async def body(made, *nodes):
        acknowledged = dict.fromkeys(range(5), 0)
        made.origin.bucket("storm")
        stale = mixed = reads = 0

        def text(number, version):
            return f"{number}:{version};".encode() * 200

        for number in acknowledged:
            await written(nodes[0], ada(), parse(f"gs://storm/{number}"), text(number, 0))

        async def writer(number):
            for version in range(1, 15):
                node = nodes[dice.randrange(len(nodes))]
                await written(node, ada(), parse(f"gs://storm/{number}"), text(number, version))
                acknowledged[number] = version

        async def reader():
            nonlocal stale, mixed, reads
            while max(acknowledged.values()) < 14 or reads < 500:
                number = dice.randrange(5)
                before = acknowledged[number]
                data = await whole(nodes[dice.randrange(len(nodes))], ada(), parse(f"gs://storm/{number}"))
                version = int(data.split(b";")[0].split(b":")[1])
                mixed += data != text(number, version)
                stale += version < before
                reads += 1

        await asyncio.gather(*(writer(number) for number in acknowledged), *(reader() for _ in range(10)))
        assert (stale, mixed) == (0, 0)
        assert reads >= 500

    scene(tmp_path, body, count=3, window=30.0)


def test_the_parts_that_homes_keep_for_a_user_go_with_that_user_s_copies(tmp_path):
    async def body(made, *nodes):
        made.origin.store("genomes", "chr1", os.urandom(600_000))
        await content(nodes[0], ada(scope="run7"), HERE)
        assert sum(len(node.tiers.index) for node in nodes) > 1
        await clear_everywhere(nodes[1], Clear(user="ada", scope="run7"))
        assert sum(len(node.tiers.index) for node in nodes) == 0

    scene(tmp_path, body, count=3)


def test_a_scope_left_behind_ends_with_its_lease(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"one")
        made.origin.store("genomes", "chr2", b"two")
        await content(cache, ada(scope="run7"), HERE)
        await content(cache, ada(), parse("gs://genomes/chr2"))
        await end_left_behind(cache, 3600)
        assert len(cache.tiers.index) == 2
        later = cache.wall() + 3601
        cache.wall = lambda: later
        await end_left_behind(cache, 3600)
        assert [entry.key.name for entry in cache.tiers.index] == ["chr2"]

    scene(tmp_path, body)


def test_one_user_s_hanging_file_stops_neither_the_puts_of_others_nor_the_node(tmp_path, monkeypatch):
    hung, real = threading.Event(), write_module._measured
    mallory = Reader(user="mallory", token="tok-mallory")

    def measured(fd, hold):
        if os.pread(fd, 4, 0) == b"hang":
            hung.wait()
        return real(fd, hold)

    monkeypatch.setattr(write_module, "_measured", measured)

    async def body(made, cache):
        cache.hands = Hands(silence=0.5)
        made.origin.bucket("genomes")
        stuck = [
            asyncio.create_task(written(cache, mallory, parse(f"gs://genomes/m{number}"), b"hang"))
            for number in range(12)
        ]
        for number in range(8):
            await written(cache, ada(), parse(f"gs://genomes/a{number}"), b"bytes")
        answers = await asyncio.gather(*stuck, return_exceptions=True)
        assert {type(answer) for answer in answers} == {TimedOut, Busy}
        assert (await content(cache, bob(), parse("gs://genomes/a1")))[0] == b"bytes"
        hung.set()

    scene(tmp_path, body)


def with_the_crc_of(model, data):
    """Return `data` with other last bytes, so that it has the CRC-32C of `model`: the checksum is linear in them."""
    head = data[:-4]
    zero = crc32c(head + bytes(4))
    basis = {}
    for bit in range(32):
        value, chosen = crc32c(head + (1 << bit).to_bytes(4, "little")) ^ zero, 1 << bit
        while value and value.bit_length() in basis:
            other, more = basis[value.bit_length()]
            value, chosen = value ^ other, chosen ^ more
        basis[value.bit_length()] = value, chosen
    rest, tail = crc32c(model) ^ zero, 0
    while rest:
        value, chosen = basis[rest.bit_length()]
        rest, tail = rest ^ value, tail ^ chosen
    return head + tail.to_bytes(4, "little")


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_bytes_with_the_same_checksum_that_take_the_place_of_what_was_sent_are_not_kept(tmp_path, size):
    async def body(made, cache):
        made.origin.bucket("genomes")
        honest = b"A" * size
        forged = with_the_crc_of(honest, b"B" * size)
        assert crc32c(forged) == crc32c(honest)
        assert forged != honest
        fd = memory(honest)
        store = made.origin.put

        async def put_and_change(*given, **wish):
            pinned = await store(*given, **wish)
            os.pwrite(fd, forged, 0)
            return pinned

        made.origin.put = put_and_change
        await put(cache, ada(), HERE, fd, Wish())
        os.close(fd)
        assert cache.counts["objects.put_not_kept"] == 1
        assert (await content(cache, bob(), HERE))[0] == honest

    scene(tmp_path, body)


def test_of_what_was_read_twice_to_be_sent_no_copy_is_kept(tmp_path):
    async def body(made, cache):
        made.origin.bucket("genomes")
        store = made.origin.put

        async def read_twice(*given, reading, **wish):
            async def again(call):
                await reading(call)
                return await reading(call)

            return await store(*given, reading=again, **wish)

        made.origin.put = read_twice
        await written(cache, ada(), HERE, b"bytes")
        assert len(cache.tiers.index) == 0
        assert (await content(cache, bob(), HERE))[0] == b"bytes"

    scene(tmp_path, body)


def test_a_file_that_does_not_say_how_long_it_is_keeps_nobody_but_its_user(tmp_path, monkeypatch):
    asked, fstat = [], os.fstat

    def noted(fd):
        asked.append((fd, threading.current_thread() is threading.main_thread()))
        return fstat(fd)

    async def body(made, cache):
        made.origin.bucket("genomes")
        fd = memory(b"bytes")
        monkeypatch.setattr(os, "fstat", noted)
        await put(cache, ada(), HERE, fd, Wish())
        os.close(fd)
        assert {in_loop for one, in_loop in asked if one == fd} == {False}

    scene(tmp_path, body)

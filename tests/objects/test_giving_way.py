"""Copies of objects give way: to what the partition keeps free, and to sets."""

import asyncio
import os
import threading

from cached.addresses import parse
from cached.errors import NoSpace
from cached.node import objects
from cached.objects.tiers import Wanted
from tests.node.fakes import caller, create_set, world
from tests.objects.cache_kit import ada, content, town
from tests.objects.shelves import KB, Shelves, key, waited

ADA = caller("ada")


def test_what_the_partition_keeps_free_is_not_written_to(tmp_path):
    data = os.urandom(300_000)

    async def scene():
        async with town(tmp_path, memory=0) as (made, (cache,)):
            made.origin.store("genomes", "chr1", data)
            made.origin.store("genomes", "chr2", data)
            room = [1_000_000]
            cache.tiers._headroom = lambda tier: room[0]
            assert (await content(cache, ada(), parse("gs://genomes/chr1")))[0] == data
            room[0] = 0
            assert (await content(cache, ada(), parse("gs://genomes/chr2")))[0] in (data, None)
            assert len(cache.tiers.index) <= 1, "the older copy gave way, or the newer was read through"

    asyncio.run(scene())


@waited
async def test_free_bytes_are_promised_once_although_nothing_is_written_yet(tmp_path):
    shelves = Shelves(tmp_path, memory=None, disk=400 * KB)
    free = 100 * KB
    shelves.tiers._headroom = lambda tier: free - shelves.taken(tier)
    store, going, begun = shelves.stores["disk"], threading.Event(), threading.Event()
    real = store.create

    def create(name, size):
        if name == key("first").digest:
            begun.set()
            assert going.wait(60)
        return real(name, size)

    store.create = create
    first = asyncio.ensure_future(shelves.tiers.reserve(Wanted(key=key("first"), size=60 * KB)))
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        assert await shelves.tiers.reserve(Wanted(key=key("second"), size=60 * KB)) is None
    finally:
        going.set()
    filling = await first
    assert filling is not None
    assert await shelves.tiers.reserve(Wanted(key=key("third"), size=60 * KB)) is None
    await shelves.tiers.abandon(filling)
    assert await shelves.fetch("second", 60 * KB) is not None, "what was not written is free again"
    shelves.check_idle()


@waited
async def test_a_file_that_cannot_be_removed_does_not_keep_its_room(tmp_path, monkeypatch):
    shelves = Shelves(tmp_path, memory=None, disk=400 * KB)
    entry = await shelves.fetch("a", 60 * KB)

    def erase(doomed):
        raise NoSpace("the disk is broken")

    monkeypatch.setattr(shelves.stores["disk"], "erase", erase)
    await shelves.tiers.remove(entry, "cleared")
    assert shelves.tiers.lookup("a") is None
    assert shelves.tiers.index.rooms["disk"].used == 0


def test_a_set_that_needs_the_partition_takes_it_from_objects(tmp_path):
    async def scene():
        async with world(tmp_path) as made:
            node = await made.node("n0", object_disk=20 << 20)
            made.origin.store("genomes", "chr1", os.urandom(3_000_000))
            opened = await objects.open_object(node, ADA, parse("gs://genomes/chr1"), token="")
            os.close(opened.fd)
            objects.release(node, opened.pin)
            (entry,) = node.objects.tiers.index
            store, free = node.stores["disk"], node.space.free("disk")
            # Others have filled the partition but for a million bytes more than stay free; each copy that goes gives back.
            above = node.space.above_floor("disk")
            taken = above - 1_000_000
            real = store.partition_free
            held = [3_000_000]

            def partition_free():
                gone = 0 if entry.held else held[0]
                return real() - taken + gone

            store.partition_free = partition_free  # type: ignore[method-assign]
            assert node.space.free("disk") < 2_000_000 < free
            await node.space.make_room("disk", 2_000_000)
            assert len(node.objects.tiers.index) == 0
            assert node.counters.snapshot()["objects.gone.room"] == 1

    asyncio.run(scene())


def test_copies_and_sets_together_stay_within_the_capacity_of_the_store(tmp_path):
    async def scene():
        async with world(tmp_path) as made:
            node = await made.node("n0", capacity=8 << 20, object_disk=1 << 30)
            for number in range(6):
                made.origin.store("genomes", f"chr{number}", os.urandom(2_000_000))
                opened = await objects.open_object(node, ADA, parse(f"gs://genomes/chr{number}"), token="")
                if opened.fd >= 0:
                    os.close(opened.fd)
                    objects.release(node, opened.pin)
            assert node.objects.tiers.taken("disk") <= 8 << 20
            await create_set(node, ADA, "s", {"f": os.urandom(5_000_000)})
            used = node.space.capacity("disk") - node.space.free("disk")
            assert used + node.objects.tiers.taken("disk") <= 8 << 20

    asyncio.run(scene())

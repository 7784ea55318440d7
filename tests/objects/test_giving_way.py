"""Copies of objects give way: to what the partition keeps free, and to sets."""

import asyncio
import os

from cached.addresses import parse
from cached.node import objects
from tests.node.fakes import caller, world
from tests.objects.cache_kit import ada, content, town

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

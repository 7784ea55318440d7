"""Users see their own copies of objects, and nobody learns what others read."""

from __future__ import annotations

import asyncio
import os

import msgspec
from cached.addresses import parse, parse_prefix
from cached.node import objects
from cached.node.copies import list_copies
from cached.objects.entry import Entry, Row
from tests.node.fakes import caller, world

ADA, BOB = caller("ada"), caller("bob")


async def read(node, who, address, scope=""):
    opened = await objects.open_object(node, who, parse(address), token="", scope=scope)
    os.close(opened.fd)
    objects.release(node, opened.pin)


def listed(node, who, prefix=None):
    found = list_copies(node, who, prefix and parse_prefix(prefix))
    return [(copy.address.partition("#")[0], copy.scope) for copy in found.items if copy.whole]


def test_a_user_is_told_of_what_it_read_and_of_nothing_else(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0", object_disk=1 << 20)
            for name in ("a/1", "a/2", "b/1"):
                made.origin.store("genomes", name, name.encode() * 100)
            await read(node, ADA, "gs://genomes/a/1", "run7")
            await read(node, ADA, "gs://genomes/b/1", "run7")
            await read(node, BOB, "gs://genomes/a/2")
            await read(node, BOB, "gs://genomes/b/1")
            assert listed(node, ADA) == [("gs://genomes/a/1", "run7"), ("gs://genomes/b/1", "")]
            assert listed(node, BOB) == [("gs://genomes/a/2", ""), ("gs://genomes/b/1", "")]
            assert listed(node, ADA, "gs://genomes/a/") == [("gs://genomes/a/1", "run7")]
            assert listed(node, ADA, "gs://other") == []
            assert listed(node, caller("eve")) == []

    asyncio.run(story())


def test_a_copy_is_listed_with_its_generation_its_size_and_where_it_lies(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0", object_disk=1 << 20)
            pinned = made.origin.store("genomes", "chr1", b"x" * 1000)
            await read(node, ADA, "gs://genomes/chr1")
            (copy,) = list_copies(node, ADA, None).items
            assert copy.address == f"gs://genomes/chr1#{pinned.generation}"
            assert (copy.bytes, copy.whole, copy.generation) == (1000, True, pinned.generation)
            assert copy.tiers == ["disk"]
            assert 0 <= copy.age_seconds < 600

    asyncio.run(story())


def test_when_others_read_a_copy_is_not_told_by_its_age(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0", object_disk=1 << 20)
            made.origin.store("genomes", "chr1", b"x" * 1000)
            await read(node, ADA, "gs://genomes/chr1")
            (entry,) = node.objects.tiers.index
            entry.last_used -= 500
            for _ in range(3):
                await read(node, BOB, "gs://genomes/chr1")
                node.objects.hits.settle()
                (copy,) = list_copies(node, ADA, None).items
                assert copy.age_seconds >= 500
            assert list_copies(node, BOB, None).items[0].age_seconds < 400
            entry = Entry.of(msgspec.json.decode(msgspec.json.encode(entry.row), type=Row))
            assert entry.used_at("ada") + 400 < entry.used_at("bob")
            await objects.clear(node, BOB, None, None)
            assert list_copies(node, ADA, None).items[0].age_seconds >= 500
            await read(node, ADA, "gs://genomes/chr1")
            node.objects.hits.settle()
            assert list_copies(node, ADA, None).items[0].age_seconds < 400

    asyncio.run(story())

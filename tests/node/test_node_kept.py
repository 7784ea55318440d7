"""A set that is kept in the origin is described by what lies there, which anybody may have written."""

from __future__ import annotations

import asyncio

import pytest
from cached.addresses import Prefix
from cached.errors import Busy, IntegrityFailed, NoSpace
from cached.node import kept, metadata
from cached.origin import document
from cached.origin.document import Document, Part
from cached.sets import manifest as manifests
from cached.sets.manifest import Entry, Manifest
from tests.node.fakes import caller, hand_over, world
from tests.origin.memory_origin import MemoryOrigin

ADA = caller("ada")
PREFIX = Prefix("data", "out/")


def run(tmp_path, story):
    async def played():
        async with world(tmp_path) as w:
            node = await w.node("a", buckets={"data": ("*",)})
            node.origin = MemoryOrigin()
            node.origin.bucket("data")
            await story(node)

    asyncio.run(played())


async def keep(node):
    creation = await hand_over(
        node, ADA, "nr", {"a": b"some bytes", "b": b"x" * 40_000}, origin="gs://data/out"
    )
    await creation.seal()
    return await creation.kept()


def test_a_set_that_says_it_is_small_brings_no_large_parts(tmp_path):
    async def story(node):
        made = Manifest.build([Entry(path="a", kind="file", size=1 << 50, root=b"r" * 32)])
        data = manifests.encode(made)
        parts = {"manifest": data, "leaves": b"x" * 1000, "places": b"x" * 1000}
        pinned = {
            part: node.origin.store("data", f"out/.cached/{part}", data) for part, data in parts.items()
        }
        told = Document(
            content=manifests.content_id(data),
            bytes=10,
            files=1,
            parts={
                part: Part(generation=one.generation, size=one.size, crc32c=one.crc32c)
                for part, one in pinned.items()
            },
        )
        with pytest.raises(IntegrityFailed, match="not as large as its document says"):
            await kept.described(node, PREFIX, told)
        read = {address.name for kind, _, address in node.origin.asked if kind == "media"}
        assert read == {"out/.cached/manifest"}

    run(tmp_path, story)


def test_no_part_is_longer_than_the_manifest_asks_for_whatever_the_document_says(tmp_path):
    async def story(node):
        await keep(node)
        found = document.decode(node.origin.content("data", "out/.cached/set"), "")
        for part in ("leaves", "mtimes", "places"):
            long = Part(generation=1, size=1 << 22, crc32c=0)
            told = Document(
                content=found.content, bytes=found.bytes, files=found.files, parts={**found.parts, part: long}
            )
            with pytest.raises(IntegrityFailed, match=f"{part}#1 has 4194304 bytes"):
                await kept.described(node, PREFIX, told)
        assert node.metadata_coming == 0

    run(tmp_path, story)


def test_what_is_read_counts_with_the_metadata_that_peers_send(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "SMALL", 0)

    async def story(node):
        await keep(node)
        found = await kept.document_at(node, PREFIX)
        counted = []

        async def before(kind, _address):
            if kind == "media":
                counted.append(node.metadata_coming)

        node.origin.before = before
        await kept.described(node, PREFIX, found)
        sizes = [found.parts[part].size for part in document.PARTS]
        assert counted == [sum(sizes[: at + 1]) for at in range(4)]
        assert node.metadata_coming == 0
        node.metadata_coming = most = 1 << 60
        with pytest.raises((Busy, NoSpace)):
            await kept.described(node, PREFIX, found)
        assert node.metadata_coming == most
        assert len(counted) == 4

    run(tmp_path, story)

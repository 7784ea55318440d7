"""Lists of objects: page by page, no more of a bucket than was asked for, each page charged to who asked."""

from __future__ import annotations

import asyncio

import pytest
from cached.addresses import parse_prefix
from cached.errors import Forbidden
from cached.node import ledger, objects
from tests.node.fakes import caller, world

ADA = caller("ada")


def scene(tmp_path, body):
    async def story():
        async with world(tmp_path) as made:
            await body(made, await made.node("n0"))

    asyncio.run(story())


async def listed(node, prefix, delimiter="", token=""):
    pages = objects.list_objects(node, ADA, parse_prefix(prefix), token, delimiter)
    return [page async for page in pages]


def test_what_lies_deeper_is_not_asked_for_when_only_its_beginning_is_wanted(tmp_path):
    async def body(made, node):
        for number in range(50):
            made.origin.store("genomes", f"deep/{number}", b"")
        made.origin.store("genomes", "readme", b"")
        made.origin.page = 10
        (page,) = await listed(node, "gs://genomes", "/")
        assert ([each.name for each in page.items], page.prefixes) == (["readme"], ["deep/"])
        assert made.origin.counts["list"] == 1
        assert [len(page.items) for page in await listed(node, "gs://genomes/deep/")] == [10] * 5

    scene(tmp_path, body)


def test_who_stops_listening_has_no_more_asked(tmp_path):
    async def body(made, node):
        for number in range(30):
            made.origin.store("genomes", f"{number}", b"")
        made.origin.page = 10
        pages = objects.list_objects(node, ADA, parse_prefix("gs://genomes"), "", "")
        await anext(pages)
        await pages.aclose()
        assert made.origin.counts["list"] == 1

    scene(tmp_path, body)


def test_each_page_is_a_request_that_the_user_is_charged_for(tmp_path):
    async def body(made, node):
        await ledger.begin(node)
        for number in range(30):
            made.origin.store("genomes", f"{number}", b"")
        made.origin.page = 10
        await listed(node, "gs://genomes")
        await ledger.write(node)
        (row,) = await node.catalog.read(lambda tx: tx.taken())
        assert (row.owner, row.tier, row.spent_operations, row.spent_bytes) == ("ada", "origin", 3, 0)

    scene(tmp_path, body)


def test_a_list_is_asked_for_as_the_user(tmp_path):
    async def body(made, node):
        made.origin.store("genomes", "chr1", b"")
        made.origin.allow("genomes", "tok-bob")
        with pytest.raises(Forbidden):
            await listed(node, "gs://genomes", token="tok-ada")
        assert len(await listed(node, "gs://genomes", token="tok-bob")) == 1

    scene(tmp_path, body)

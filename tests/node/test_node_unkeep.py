"""The end of a scope takes from the origin what the scope's sets put there, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from cached.addresses import Address
from cached.errors import Forbidden
from cached.node import persist
from cached.node.unkeep import SET_MARK, unkeep
from tests.node.fakes import caller, until, world
from tests.node.origin_kit import ADA, FILES, node_with, persisted, run
from tests.origin.memory_origin import MemoryOrigin

BOB = caller("bob", "others")


def names(origin, bucket="data"):
    return sorted(name for name in origin._buckets[bucket])


def records(node, scope):
    return [one.record for one in node.shelf.known.values() if one.record.scope == scope]


async def beginning(w):
    origin = MemoryOrigin()
    origin.bucket("data")
    return origin, await node_with(w, origin)


async def ended(node, who=ADA, scope="s1", *, dry_run=False):
    return await unkeep(node, who, scope, records(node, scope), dry_run)


def test_everything_that_was_written_for_the_set_goes_and_the_document_first(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            await persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1")
            there = names(origin)
            listed = await ended(node, dry_run=True)
            assert sorted(item.name.split("#")[0] for item in listed) == [
                f"gs://data/{name}" for name in there
            ]
            assert {(item.kind, item.action, item.reason) for item in listed} == {("origin", "delete", "")}
            assert names(origin) == there
            del origin.asked[:]
            assert len(await ended(node)) == len(there)
            assert names(origin) == []
            deleted = [address.name for kind, _, address in origin.asked if kind == "delete"]
            assert deleted[0] == "out/.cached/set"
            assert {token for _, token, _ in origin.asked} == {None}
            assert await ended(node) == []

    run(story())


def test_what_others_put_there_and_what_was_there_before_stays_and_is_told(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            before = origin.store("data", "out/a", FILES["a"])
            await persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1")
            origin.store("data", "out/notes", b"mine", metadata={SET_MARK: "bob s1"})
            items = await ended(node)
            assert names(origin) == ["out/a", "out/notes"]
            assert (await origin.stat(Address("data", "out/a"), token=None)) == before
            left = [item for item in items if item.reason]
            assert [(item.action, item.name) for item in left] == [("keep", "gs://data/out")]
            assert "gs://data/out/a and 1 more" in left[0].reason

    run(story())


def test_what_is_overwritten_at_that_moment_stays(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            await persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1")

            async def before(kind, address):
                if kind == "delete" and address.name == "out/a" and not replaced:
                    replaced.append(origin.store("data", "out/a", b"somebody else's"))

            replaced = []
            origin.before = before
            await ended(node)
            assert origin.content("data", "out/a") == b"somebody else's"

    run(story())


@pytest.mark.parametrize("other", ["in another scope", "below it"])
def test_objects_of_a_set_that_lives_on_stay(tmp_path, other):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            await persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1")
            files, where = (
                (FILES, "out") if other == "in another scope" else ({"b": FILES["d/b"], "e/c": b""}, "out/d")
            )
            await persisted(node, ADA, "lasting", files, f"gs://data/{where}", scope="s2")
            items = await ended(node)
            for path, data in files.items():
                assert origin.content("data", f"{where}/{path}") == data
            assert any("another set is kept with" in item.reason for item in items)
            assert ("out/.cached/set" in names(origin)) == (other == "in another scope")

    run(story())


def test_who_may_not_name_the_bucket_deletes_nothing_there(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            origin.bucket("lab")
            await persisted(node, ADA, "nr", FILES, "gs://lab/out", scope="s1")
            there = names(origin, "lab")
            items = await ended(node, caller("ada"))
            assert names(origin, "lab") == there
            assert ["may not name gs://lab" in item.reason for item in items] == [True]

    run(story())


def test_a_document_that_cannot_be_deleted_keeps_the_files_that_it_tells_of(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            await persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1")
            there = names(origin)
            origin.fail(Forbidden("gs://data/out/.cached/set: HTTP 403"), kind="delete")
            assert all("HTTP 403" in item.reason for item in await ended(node))
            assert names(origin) == there
            await ended(node)
            assert names(origin) == []

    run(story())


def test_an_upload_under_way_ends_before_its_objects_go(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            stuck = asyncio.Event()

            async def before(kind, address):
                if kind == "upload" and address.name == "out/d/b":
                    stuck.set()
                    await asyncio.sleep(3600)

            origin.before = before
            work = asyncio.create_task(persisted(node, ADA, "nr", FILES, "gs://data/out", scope="s1"))
            async with asyncio.timeout(60):
                await stuck.wait()
            origin.before = None
            await persist.stop(node, records(node, "s1")[0].id)
            await asyncio.wait({work})
            assert "deleted before" in str(work.exception())
            assert not node.uploads
            await ended(node)
            assert names(origin) == []
            await until(lambda: not any(key.startswith("persist") for key in node.flights), 60)

    run(story())

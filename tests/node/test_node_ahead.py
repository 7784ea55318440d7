"""A set that takes another one's place is in the origin before the name moves; whatever fails, the old one stays."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from cached.errors import (
    BadName,
    Forbidden,
    NameTaken,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from cached.node import persist, views
from cached.origin import document
from tests.node.fakes import create_set, hand_over, left_behind, until, world
from tests.node.origin_kit import ADA, FILES, node_with, persisted, run
from tests.origin.memory_origin import MemoryOrigin

NEW = {"a": b"other bytes", "n": b"y" * 30_000}


async def beginning(w):
    origin = MemoryOrigin()
    origin.bucket("data")
    return origin, await node_with(w, origin)


def unchanged(node, old):
    known = node.shelf.current("ada", "nr")
    assert (known.record.id, known.record.status) == (old.id, "live")
    assert node.shelf.replicas[old.id].state == "COMMITTED"
    assert node.left(node.shelf.replicas[old.id].grant) > 1000
    assert [one.record.id for one in node.shelf.known.values()] == [old.id]
    left = left_behind(node)
    assert (left["incoming"], left["reservations"], left["contents"]) == ([], [], [old.content])
    assert not node.uploads
    assert node.catalog.read_now(lambda tx: tx.uploads()) == []


@pytest.mark.parametrize(
    "there", ["another set", "another file", "a directory of ours", "nothing may be written"]
)
def test_a_prefix_that_cannot_take_the_new_set_leaves_the_old_one_as_it_was(tmp_path, there):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            old = await persisted(node, ADA, "nr", FILES, "gs://data/old")
            if there == "another set":
                said = origin.content("data", "old/.cached/set")
                origin.store("data", "new/.cached/set", said)
            if there == "another file":
                origin.store("data", "new/n", b"somebody else's")
            if there == "nothing may be written":
                origin.fail(Forbidden("gs://data/new/n: HTTP 403"), kind="upload")
            files = {".cached/set": b"1"} if there == "a directory of ours" else NEW
            kind = {"nothing may be written": Forbidden, "a directory of ours": BadName}.get(
                there, OriginChanged
            )
            with pytest.raises(kind) as caught:
                await persisted(node, ADA, "nr", files, "gs://data/new", replace=True)
            if there != "a directory of ours":
                assert "your set nr is as it was" in caught.value.message
            unchanged(node, old)

    run(story())


def test_the_name_moves_once_the_origin_has_all_of_the_new_set(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            old = await persisted(node, ADA, "nr", FILES, "gs://data/old")
            held = []

            async def before(kind, address):
                if kind == "upload":
                    held.append((address.name, node.shelf.current("ada", "nr").record.id))

            origin.before = before
            new = await persisted(node, ADA, "nr", NEW, "gs://data/new", replace=True)
            assert {who for _, who in held} == {old.id}
            assert held[-1][0] == "new/.cached/set"
            assert (new.state, new.origin, new.upload) == ("COMMITTED", "gs://data/new", None)
            assert node.shelf.known[old.id].record.status == "withdrawn"
            assert node.stores["disk"].places(new.content) is not None
            assert document.decode(origin.content("data", "new/.cached/set"), "").content == new.content
            assert node.counters.snapshot()["persist.done"] == 2
            again = await persisted(node, ADA, "nr", NEW, "gs://data/new", replace=True)
            assert (again.id, len(held)) == (new.id, len({name for name, _ in held}))

    run(story())


def test_what_was_sent_before_a_failure_is_not_sent_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            old = await persisted(node, ADA, "nr", FILES, "gs://data/old")
            files = {f"f{number}": bytes([number]) * 1000 for number in range(30)}
            stuck = asyncio.Event()

            async def before(kind, address):
                if kind == "upload" and address.name == "new/f29":
                    stuck.set()
                    await asyncio.sleep(3600)

            origin.before = before
            creation = await hand_over(node, ADA, "nr", files, origin="gs://data/new", replace=True)
            ahead = asyncio.create_task(creation.ahead())
            async with asyncio.timeout(60):
                await stuck.wait()
            assert creation.upload.state == "SENDING"
            ahead.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ahead
            await creation.abort()
            unchanged(node, old)
            origin.before = None
            sent = len(origin.asked)
            new = await persisted(node, ADA, "nr", files, "gs://data/new", replace=True)
            assert node.shelf.current("ada", "nr").record.id == new.id
            assert node.counters.snapshot()["persist.found"] >= 20
            assert len(origin.asked) > sent

    run(story())


@pytest.mark.parametrize("there", ["another set", "no bucket", "denied"])
def test_what_cannot_be_kept_where_it_should_is_not_committed_either(tmp_path, there):
    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)
            target, kind = "gs://data/new", OriginChanged
            if there == "another set":
                await persisted(node, ADA, "first", {"z": b"1"}, target)
            if there == "no bucket":
                target, kind = "gs://lab/new", NotFound
            if there == "denied":
                origin.fail(Forbidden("gs://data/new: HTTP 403"), kind="stat")
                kind = Forbidden
            with pytest.raises(kind):
                await persisted(node, ADA, "nr", NEW, target)
            assert node.shelf.current("ada", "nr") is None
            assert not node.uploads
            assert left_behind(node)["incoming"] == []

    run(story())


def test_a_new_set_is_committed_though_cloud_storage_does_not_answer_and_goes_there_later(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(persist, "PAUSE", 60.0)

    async def story():
        async with world(tmp_path) as w:
            origin, node = await beginning(w)

            async def before(kind, _address):
                raise OriginUnavailable("gs://data/new: HTTP 503")

            origin.before = before
            with pytest.raises(OriginUnavailable, match="committed on this node") as caught:
                await persisted(node, ADA, "nr", NEW, "gs://data/new")
            assert "the same command waits for it" in caught.value.hint
            assert "cached delete" in caught.value.hint
            known = node.shelf.current("ada", "nr")
            await until(lambda: views.upload_view(node, known).retry_in_seconds)
            view = views.set_view(node, known)
            assert (view.state, view.origin) == ("UPLOADING", "gs://data/new")
            assert (view.upload.bytes_wanted, view.upload.files_done) == (sum(map(len, NEW.values())), 0)
            assert view.upload.reason == "gs://data/new: HTTP 503"
            assert 0 < view.upload.retry_in_seconds <= 60
            with pytest.raises(NameTaken, match="still on its way to gs://data/new") as taken:
                await create_set(node, ADA, "nr", FILES)
            assert "the same command as before waits for it" in taken.value.hint
            origin.before = None
            done = await persisted(node, ADA, "nr", NEW, "gs://data/new")
            assert (done.state, done.upload, done.id) == ("COMMITTED", None, known.record.id)

    run(story())

"""A committed set goes into the origin: acknowledged when all of it is there, gone on with after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

import msgspec
import pytest
from cached.addresses import Address, Prefix
from cached.catalog.rows import UploadRow
from cached.errors import (
    BadName,
    CachedError,
    Forbidden,
    NameTaken,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from cached.node import book, kept, persist, read, revise
from cached.origin import document, places
from cached.sets.names import parse_ref
from tests.node.fakes import create_set, hand_over, until, world
from tests.node.origin_kit import ADA, FILES, node_with, persisted, run
from tests.origin.memory_origin import MemoryOrigin


def test_a_created_set_is_acknowledged_once_the_origin_has_all_of_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            seen = []

            async def before(kind, _address):
                if kind == "upload":
                    seen.append(next(iter(node.shelf.known.values())))

            origin.before = before
            view = await persisted(node, ADA, "nr", FILES, "gs://data/out/")
            assert (view.state, view.origin) == ("COMMITTED", "gs://data/out")
            assert {path: origin.content("data", f"out/{path}") for path in FILES} == FILES
            found = document.decode(origin.content("data", "out/.cached/set"), "")
            assert (found.content, found.files, found.bytes) == (view.content, 3, 40_010)
            uploads = [address.name for kind, _, address in origin.asked if kind == "upload"]
            assert uploads[-1] == "out/.cached/set"
            assert len(seen) == len(uploads) == 8
            assert node.catalog.read_now(lambda tx: tx.uploads()) == []
            assert node.stores["disk"].places(view.content) is not None
            again = await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert again.id == view.id
            assert sum(kind == "upload" for kind, _, _ in origin.asked) == len(uploads)

    run(story())


def test_a_set_of_an_earlier_creation_can_be_kept_from_now_on(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            plain = await create_set(node, ADA, "nr", FILES)
            kept = await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert (kept.id, kept.origin, kept.revision) == (plain.id, "gs://data/out", plain.revision + 1)
            with pytest.raises(NameTaken):
                await persisted(node, ADA, "nr", FILES, "gs://data/elsewhere")

    run(story())


def test_identical_objects_count_and_others_are_never_overwritten(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            there = origin.store("data", "out/a", FILES["a"])
            node = await node_with(w, origin)
            await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert (await origin.stat(Address("data", "out/a"), token=None)) == there
            assert node.counters.snapshot()["persist.found"] == 1
            origin.store("data", "taken/a", b"somebody else's")
            with pytest.raises(OriginChanged, match="gs://data/taken/a is there already"):
                await persisted(node, ADA, "other", FILES, "gs://data/taken")
            assert origin.content("data", "taken/a") == b"somebody else's"
            with pytest.raises(OriginChanged, match="another set"):
                await persisted(node, ADA, "third", {"x": b"1"}, "gs://data/out")
            with pytest.raises(BadName):
                await persisted(node, ADA, "fourth", {".cached/set": b"1"}, "gs://data/fourth")
            with pytest.raises(Forbidden):
                await persisted(node, ADA, "fifth", FILES, "gs://closed/x")

    run(story())


@pytest.mark.parametrize("spoil", ["all files", "a file", "a file's bytes", "the map", "a map of elsewhere"])
def test_a_document_alone_is_no_set_what_is_missing_is_sent(tmp_path, spoil):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            await persisted(node, ADA, "nr", FILES, "gs://data/out")
            if spoil == "a map of elsewhere":
                await persisted(node, ADA, "same", FILES, "gs://data/else")
                said = document.decode(origin.content("data", "out/.cached/set"), "")
                one = origin.store(
                    "data", "out/.cached/places", origin.content("data", "else/.cached/places")
                )
                part = document.Part(generation=one.generation, size=one.size, crc32c=one.crc32c)
                said.parts["places"] = part
                origin.store("data", "out/.cached/set", document.encode(said))
            gone = {"all files": list(FILES), "a file": ["d/b"], "the map": [".cached/places"]}.get(spoil, [])
            for name in gone:
                origin.remove("data", f"out/{name}")
            if spoil == "a file's bytes":
                origin.store("data", "out/d/b", FILES["d/b"])
            await revise.delete(node, ADA, parse_ref("nr"), everywhere=True, dry_run=False)
            del origin.asked[:]
            view = await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert {path: origin.content("data", f"out/{path}") for path in FILES} == FILES
            told = document.decode(origin.content("data", "out/.cached/set"), "")
            found = await kept.described(node, Prefix("data", "out/"), told)
            where = places.decode(found.places, found.manifest).pinned(found.manifest)
            for path in FILES:
                there = await origin.stat(Address("data", f"out/{path}"), token=None)
                assert there.generation == where[path].generation
            assert node.stores["disk"].places(view.content) == found.places
            assert node.counters.snapshot()["persist.incomplete"] == 1
            sent = {address.name for kind, _, address in origin.asked if kind == "upload"}
            assert ("out/a" in sent) == (spoil not in ("a file", "a file's bytes"))

    run(story())


def test_a_set_that_is_all_there_is_found_and_nothing_is_sent(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            await persisted(node, ADA, "nr", FILES, "gs://data/out")
            await revise.delete(node, ADA, parse_ref("nr"), everywhere=True, dry_run=False)
            del origin.asked[:]
            await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert not [address for kind, _, address in origin.asked if kind == "upload"]
            assert [kind for kind, _, _ in origin.asked].count("list") == 1

    run(story())


def test_an_object_of_somebody_else_in_the_place_of_a_missing_file_ends_the_upload(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            await persisted(node, ADA, "nr", FILES, "gs://data/out")
            origin.store("data", "out/d/b", b"somebody else's")
            await revise.delete(node, ADA, parse_ref("nr"), everywhere=True, dry_run=False)
            with pytest.raises(OriginChanged, match="gs://data/out/d/b is there already"):
                await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert origin.content("data", "out/d/b") == b"somebody else's"

    run(story())


def test_an_upload_that_failed_says_why_and_goes_on_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(persist, "PAUSE", 0.05)

    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            origin.fail(OriginUnavailable("gs://data/out/a: HTTP 503"), kind="upload")
            origin.fail(Forbidden("gs://data/out/b: HTTP 403"), kind="upload")
            with pytest.raises((OriginUnavailable, Forbidden), match="committed on this node"):
                await persisted(node, ADA, "nr", FILES, "gs://data/out")
            await until(lambda: not node.uploads, 60)
            assert origin.content("data", "out/.cached/set")
            assert node.counters.snapshot()["persist.failed"] >= 1

    run(story())


@pytest.mark.parametrize("step", ["os.pread", "os.pwrite"])
def test_a_disk_that_fails_is_told_to_who_waits_and_the_upload_goes_on_by_itself(tmp_path, monkeypatch, step):
    monkeypatch.setattr(persist, "PAUSE", 0.05)

    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            creation = await hand_over(node, ADA, "nr", FILES, origin="gs://data/out")
            kind, real = ("stat", os.pread) if step == "os.pread" else ("upload", os.pwrite)
            broken = []

            async def before(asked, _address):
                if asked == kind and not broken:
                    broken.append(step)
                    monkeypatch.setattr(step, failing)

            def failing(*_):
                monkeypatch.setattr(step, real)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            origin.before = before
            await creation.seal()
            with pytest.raises(CachedError, match=r"committed on this node.*Input/output error"):
                async with asyncio.timeout(60):
                    await creation.kept()
            await until(lambda: not node.uploads, 60)
            assert origin.content("data", "out/.cached/set")
            assert node.counters.snapshot()["persist.failed"] == 1

    run(story())


@pytest.mark.parametrize("end", ["drains", "is_cancelled", "has_an_error"])
def test_who_waits_for_an_upload_is_told_when_the_node_ends_it(tmp_path, monkeypatch, end):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            creation = await hand_over(node, ADA, "nr", FILES, origin="gs://data/out")
            real = persist._attempt

            async def attempt(*_):
                monkeypatch.setattr(persist, "_attempt", real)
                raise OriginUnavailable("gs://data/out/a: HTTP 503")

            monkeypatch.setattr(persist, "_attempt", attempt)
            sealed = await creation.seal()
            upload = node.uploads[sealed.id]
            await until(upload.attempted.is_set, 60)
            node.draining = end == "drains"
            persist.start(node, upload.row)
            if end == "is_cancelled":
                node.flights[f"persist {sealed.id}"].cancel()
            if end == "has_an_error":
                monkeypatch.setattr(persist, "_attempt", None)
            with pytest.raises(CachedError, match=r"committed on this node.*interrupted"):
                async with asyncio.timeout(60):
                    await creation.kept()

    run(story())


def test_an_upload_goes_on_after_a_crash_and_sends_nothing_twice(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            stuck = asyncio.Event()

            async def before(kind, address):
                if kind == "upload" and address.name == "out/d/b":
                    stuck.set()
                    await asyncio.sleep(3600)

            origin.before = before
            creation = await hand_over(node, ADA, "nr", FILES, origin="gs://data/out")
            sealed = await creation.seal()
            waiting = asyncio.create_task(creation.kept())
            async with asyncio.timeout(60):
                await stuck.wait()
            assert sealed.state == "UPLOADING"
            assert creation.upload is not None
            assert creation.upload.state == "UPLOADING"
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            await w.crash("a")
            origin.before = None
            node = await node_with(w, origin)
            await until(lambda: not node.uploads, 60)
            assert {path: origin.content("data", f"out/{path}") for path in FILES} == FILES
            assert origin.content("data", "out/.cached/set")

    run(story())


def test_what_was_uploaded_is_not_sent_again_and_a_session_is_gone_on_with(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            view = await create_set(node, ADA, "nr", FILES)
            there = origin.store("data", "out/a", FILES["a"])
            done = persist.Done(
                objects={"a": (there.generation, there.crc32c)}, sessions={"d/b": "https://go/on"}
            )
            row = UploadRow(
                set_id=view.id,
                content=view.content,
                target="gs://data/out",
                done=msgspec.msgpack.encode(done),
            )
            known = node.shelf.known[view.id]
            await book.keep(node, book.revise(node, known, origin="gs://data/out"))
            await node.catalog.write(lambda tx: tx.put_upload(row))
            resumed = {}
            put = origin.put

            async def watched(fd, size, address, **kwargs):
                resumed[address.name] = kwargs["resume"]
                return await put(fd, size, address, **kwargs)

            origin.put = watched
            persist.resume_all(node)
            await until(lambda: not node.uploads, 60)
            assert "out/a" not in resumed
            assert resumed["out/d/b"] == "https://go/on"

    run(story())


def test_an_upload_of_a_deleted_set_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(persist, "PAUSE", 0.05)

    async def story():
        async with world(tmp_path) as w:
            origin = MemoryOrigin()
            origin.bucket("data")
            node = await node_with(w, origin)
            origin.fail(Forbidden("gs://data/out/a: HTTP 403"), kind="upload", times=1000)
            with pytest.raises(Forbidden):
                await persisted(node, ADA, "nr", FILES, "gs://data/out")
            await revise.delete(node, ADA, parse_ref("nr"), everywhere=True, dry_run=False)
            await until(lambda: not node.uploads, 60)
            assert node.catalog.read_now(lambda tx: tx.uploads()) == []

    run(story())


def test_deleting_a_set_ends_the_upload_that_is_under_way_although_somebody_reads_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin, sending, go = MemoryOrigin(), asyncio.Event(), asyncio.Event()
            origin.bucket("data")
            node = await node_with(w, origin)

            async def before(kind, _address):
                if kind == "upload":
                    sending.set()
                    await go.wait()

            origin.before = before
            keeping = asyncio.create_task(persisted(node, ADA, "nr", FILES, "gs://data/out"))
            async with asyncio.timeout(60):
                await sending.wait()
            reader = read.open_now(node, ADA, parse_ref("nr"), "a")
            await revise.delete(node, ADA, parse_ref("nr"), everywhere=True, dry_run=False)
            await until(lambda: not node.uploads, 60)
            go.set()
            with pytest.raises(NotFound, match="deleted before"):
                await keeping
            assert not origin._buckets["data"]
            assert node.catalog.read_now(lambda tx: tx.uploads()) == []
            os.close(reader.fd)
            read.release(node, reader.pin)

    run(story())

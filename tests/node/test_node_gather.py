"""Sets made of objects, and sets that go into the origin: whole and pinned, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading

import pytest
from cached import wire
from cached.addresses import Address, parse_prefix
from cached.errors import (
    BadName,
    Forbidden,
    IntegrityFailed,
    NotFound,
    OriginChanged,
    OriginUnavailable,
    Refused,
    UsageError,
)
from cached.node import begin, kept, origins, read
from cached.origin import places
from cached.sets.names import parse_ref
from cached.storage.ingest import Ingest
from tests.node.fakes import NOTHING, create_set, left_behind, world
from tests.node.origin_kit import ADA, FILES, node_with, persisted, run
from tests.origin.memory_origin import MemoryOrigin


def filled(files=FILES, base="in/"):
    origin = MemoryOrigin()
    origin.bucket("data")
    for path, data in files.items():
        origin.store("data", base + path, data)
    return origin


async def made(node, who, name, **options):
    creation = await begin.begin(node, who, name, wire.CreateOptions(**options), 0, 0)
    try:
        await creation.draw()
        return await creation.seal()
    finally:
        await creation.abort()


def content_of(node, who, ref):
    set_ref = parse_ref(ref)
    found = read.open_now(node, who, set_ref, set_ref.path or "")
    with os.fdopen(found.fd, "rb") as file:
        return file.read()


def test_objects_below_a_prefix_become_a_set_like_any_other(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            origin.store("data", "in/empty/", b"")
            node = await node_with(w, origin)
            view = await made(node, ADA, "nr", source="gs://data/in", lease_seconds=500)
            assert (view.state, view.files, view.bytes, view.owner) == ("COMMITTED", 3, 40_010, "ada")
            for path, data in FILES.items():
                assert content_of(node, ADA, f"nr/{path}") == data
            manifest = node.stores["disk"].manifest(view.content)
            assert [one.path for one in manifest.entries if one.kind == "dir"] == ["d", "d/e", "empty"]
            found = places.decode(node.stores["disk"].places(view.content), manifest).pinned(manifest)
            assert {path: pinned.generation for path, pinned in found.items()} == {
                path: (await origin.stat(Address("data", f"in/{path}"), token=None)).generation
                for path in FILES
            }
            left = left_behind(node)
            assert (left["incoming"], left["reservations"], left["reserved"], left["creations"]) == (
                [],
                [],
                0,
                0,
            )
            local = await create_set(node, ADA, "same", {"x": b"1"})
            assert node.stores["disk"].places(local.content) is None

    run(story())


def test_the_same_bytes_handed_over_and_read_from_objects_are_one_content_which_learns_where_it_lies(
    tmp_path,
):
    async def story():
        async with world(tmp_path) as w:
            node = await node_with(w, filled())
            local = await create_set(node, ADA, "local", FILES)
            remote = await made(node, ADA, "remote", source="gs://data/in/")
            again = await made(node, ADA, "remote", source="gs://data/in/")
            assert (remote.content, again.id) == (local.content, remote.id)
            assert node.stores["disk"].places(local.content) is not None

    run(story())


def test_one_object_is_a_set_of_one_file(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await node_with(w, filled())
            await made(node, ADA, "one", source="gs://data/in/d/b")
            assert content_of(node, ADA, "one/b") == FILES["d/b"]

    run(story())


def test_what_a_user_may_not_name_or_what_cannot_be_a_set_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            origin.bucket("closed")
            origin.bucket("lab")
            origin.store("data", "bad/../x", b"1")
            origin.store("data", "in", b"1")
            origin.store("data", "denied/x", b"1")
            origin.deny("data", None, "denied/x")
            node = await node_with(w, origin)
            cases = [
                ("gs://closed/x", Forbidden),
                ("gs://unlisted/x", Forbidden),
                ("gs://lab/nothing", NotFound),
                ("gs://data/nothing", NotFound),
                ("gs://data/bad", BadName),
                ("gs://data/in", BadName),
                ("gs://data/denied", Forbidden),
                ("data/in", UsageError),
            ]
            for source, error in cases:
                with pytest.raises(error):
                    await made(node, ADA, "nr", source=source)
                assert left_behind(node) == NOTHING
            with pytest.raises(UsageError):
                await begin.begin(node, ADA, "nr", wire.CreateOptions(source="gs://data/in/"), 5, 1)
            node.origin = None
            with pytest.raises(Refused):
                await made(node, ADA, "nr", source="gs://data/in/")
            assert left_behind(node) == NOTHING

    run(story())


def replace_it(origin):
    origin.store("data", "in/d/b", b"y" * 40_000)


def delete_it(origin):
    with contextlib.suppress(KeyError):
        origin.remove("data", "in/d/b")


def fail_it(_origin):
    raise OriginUnavailable("gs://data/in/d/b: HTTP 503")


@pytest.mark.parametrize(
    ("fault", "error"),
    [(replace_it, OriginChanged), (delete_it, OriginChanged), (fail_it, OriginUnavailable)],
)
def test_what_goes_wrong_while_objects_are_read_leaves_nothing(tmp_path, fault, error):
    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            node = await node_with(w, origin)

            async def before(kind, address):
                if kind == "media" and address.name == "in/d/b":
                    fault(origin)

            origin.before = before
            with pytest.raises(error, match="gs://data/in/d/b"):
                await made(node, ADA, "nr", source="gs://data/in")
            assert left_behind(node) == NOTHING

    run(story())


def test_bytes_that_are_not_the_objects_leave_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            origin.store("data", "in/d/b", b"y" * 40_000, crc32c=1)
            node = await node_with(w, origin)
            with pytest.raises(IntegrityFailed):
                await made(node, ADA, "nr", source="gs://data/in")
            assert left_behind(node) == NOTHING

    run(story())


def test_whoever_goes_away_while_objects_are_read_leaves_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            node = await node_with(w, origin)
            reading = asyncio.Event()

            async def before(kind, _address):
                if kind == "media":
                    reading.set()
                    await asyncio.sleep(3600)

            origin.before = before
            work = asyncio.create_task(made(node, ADA, "nr", source="gs://data/in"))
            async with asyncio.timeout(60):
                await reading.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert left_behind(node) == NOTHING

    run(story())


def inodes_open():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.fstat(int(fd)).st_ino)
    return found


def test_what_takes_long_for_many_files_is_not_done_on_the_loop(tmp_path, monkeypatch):
    there = {}

    def watch(owner, name):
        real = getattr(owner, name)

        def watched(*args, **options):
            there.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            return real(*args, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(Ingest, "add_dir")
    watch(kept, "_bounds")
    watch(origins, "crc32c")
    for name in ("of_plan", "of_objects", "encode", "decode"):
        watch(places, name)

    async def story():
        async with world(tmp_path) as w:
            origin = filled()
            origin.store("data", "in/empty/", b"")
            node = await node_with(w, origin)
            await made(node, ADA, "nr", source="gs://data/in")
            await persisted(node, ADA, "kept", FILES, "gs://data/out")
            view = await made(node, ADA, "again", source_set="gs://data/out")
            found = await kept.document_at(node, parse_prefix(view.origin))
            await kept.described(node, parse_prefix(view.origin), found)
            watched = {"add_dir", "_bounds", "crc32c", "of_plan", "of_objects", "encode", "decode"}
            assert there == {name: {False} for name in watched}

    run(story())


def test_a_file_that_is_just_opened_for_who_goes_away_is_closed(tmp_path, monkeypatch):
    begun, go, opened, real = threading.Event(), threading.Event(), [], Ingest.open_file

    def open_file(ingest, path, size):
        begun.set()
        assert go.wait(60)
        fd = real(ingest, path, size)
        opened.append(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(Ingest, "open_file", open_file)

    async def story():
        async with world(tmp_path) as w:
            node = await node_with(w, filled({"a": b"some bytes"}))
            work = asyncio.create_task(made(node, ADA, "nr", source="gs://data/in"))
            assert await asyncio.to_thread(begun.wait, 60)
            held = asyncio.get_running_loop().call_later(0.05, go.set)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            held.cancel()
            assert go.is_set()
            assert opened[0] not in inodes_open()

    run(story())


def test_hashing_that_a_cancellation_ends_is_no_overlooked_error(tmp_path, monkeypatch, caplog):
    begun, go = threading.Event(), threading.Event()
    real = Ingest.take_file

    def take_file(ingest, *args):
        begun.set()
        assert go.wait(60)
        real(ingest, *args)

    monkeypatch.setattr(Ingest, "take_file", take_file)

    async def story():
        async with world(tmp_path) as w:
            node = await node_with(w, filled({"a": b"some bytes"}))
            work = asyncio.create_task(made(node, ADA, "nr", source="gs://data/in"))
            assert await asyncio.to_thread(begun.wait, 60)
            asyncio.get_running_loop().call_later(0.05, go.set)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert left_behind(node) == NOTHING
            del work
            gc.collect()

    run(story())
    assert "never retrieved" not in caplog.text

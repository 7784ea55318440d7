"""Sets from, into and out of Cloud Storage when the service, the network or the names misbehave: whole nodes, the real
client. What passes is waited out; what does not is an error with object and cause, and nothing is left behind.

The fake's objects have a crc32c and no md5, as composite objects do.
"""

from __future__ import annotations

import contextlib
import gzip
import os

import pytest
from cached import wire
from cached.errors import (
    BadName,
    Forbidden,
    IntegrityFailed,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from cached.node import begin, persist, pool, read, receive
from cached.origin.gcs import Gcs
from cached.sets.names import parse_ref
from tests.gcs.fixtures import gcs
from tests.node.fakes import NOTHING, left_behind, until, world
from tests.node.origin_kit import ADA, persisted, run

__all__ = ["gcs"]

MIB = 1 << 20
BIG = os.urandom(3 * MIB + 77)
FILES = {"big": BIG, "d/b": b"x" * 40_000, "d/e/c": b"", "z.gz": gzip.compress(BIG[:50_000])}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(receive, "PAUSE", 0.05)
    monkeypatch.setattr(pool, "RECOVERED", 0.2)
    monkeypatch.setattr(persist, "PAUSE", 0.05)


@pytest.fixture
def fake(gcs):
    gcs.bucket("data")
    return gcs


@contextlib.asynccontextmanager
async def node_at(tmp_path, name="a", **how):
    """A node whose origin is the real client; it gives up after `patience` seconds without getting on."""
    tmp_path = tmp_path / name
    tmp_path.mkdir()
    async with world(tmp_path) as w:
        node = await w.node(name, buckets={"data": ("*",), "absent": ("*",)})
        node.origin = Gcs(**{"threads": 4, "patience": 120, "first_wait": 0.01, **how})
        try:
            yield node
        finally:
            await node.origin.close()


async def made(node, **options):
    creation = await begin.begin(node, ADA, "nr", wire.CreateOptions(**options), 0, 0)
    try:
        await creation.draw()
        return await creation.seal()
    finally:
        await creation.abort()


def check(node, files):
    for path, data in files.items():
        found = read.open_now(node, ADA, parse_ref("nr"), path)
        with os.fdopen(found.fd, "rb") as file:
            assert file.read() == data
        read.release(node, found.pin)


def fill(fake, files=FILES, base="in/"):
    for path, data in files.items():
        encoding = {"content_encoding": "gzip"} if path.endswith(".gz") else {}
        fake.put("data", base + path, data, **encoding)


async def keep(tmp_path, files=FILES, target="gs://data/out"):
    """Have a node that is gone afterwards keep a set in the origin."""
    async with node_at(tmp_path, "first") as node:
        await persisted(node, ADA, "nr", files, target)


async def arrived(node, view, *, again=False):
    """Wait for the set; `again`: whenever a try has ended, and a busy machine may need many, begin another."""

    def committed():
        row = node.shelf.replicas.get(view.id)
        if row is not None and row.state == "COMMITTED":
            return True
        if again and view.id not in node.transfers:
            receive.start(node, view.id)
        return False

    await until(committed, 120)


def data_of(kind):
    """Match requests of a kind for the big file, not for what describes a set."""
    return lambda request: request.kind == kind and request.name.endswith("/big")


def description_of(kind):
    return lambda request: request.kind == kind and "/.cached/" in request.name


PASSING = {
    "cut": [("cut", 1, {"at": MIB})],
    "flipped": [("flip", 1, {"at": 5})],
    "flipped-unsaid": [("no_hash", None, {}), ("flip", 1, {"at": MIB})],
    "no-hash": [("no_hash", None, {})],
    "two-503": [("503", 2, {})],
    "two-429": [("429", 2, {})],
    "stall": [("stall", 1, {"at": 10})],
    "reset": [("reset", 1, {})],
}


@pytest.mark.parametrize("faults", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"source": "gs://data/in"}, data_of),
        ({"source_set": "gs://data/out"}, data_of),
        ({"source_set": "gs://data/out"}, description_of),
    ],
    ids=["objects", "kept-set", "description"],
)
def test_what_passes_while_a_set_is_read_is_waited_out(tmp_path, fake, asked, what, faults):
    async def story():
        await keep(tmp_path)
        fill(fake)
        scripted = [fake.faults.add(kind, what("media"), times, **args) for kind, times, args in faults]
        async with node_at(tmp_path, timeout=2.0) as node:
            await arrived(node, await made(node, **asked))
            check(node, FILES)
            assert all(fault.done for fault in scripted)
            counted = node.counters.snapshot()
            assert not counted.get("receive.failed"), "the whole transfer was begun anew for what passes"

    run(story())


@pytest.mark.parametrize(
    "faults",
    [
        [("lost_reply", 1, {})],
        [("cut", 1, {})],
        [("503", 2, {})],
        [("429", 2, {})],
        [("reset", 1, {})],
        [("stall", 1, {"seconds": 10})],
    ],
    ids=["reply-lost", "cut", "two-503", "two-429", "reset", "stall"],
)
@pytest.mark.parametrize("what", [data_of, description_of], ids=["data", "description"])
def test_what_passes_while_a_set_is_sent_is_waited_out(tmp_path, fake, faults, what):
    async def story():
        scripted = [fake.faults.add(kind, what("upload"), times, **args) for kind, times, args in faults]
        async with node_at(tmp_path, timeout=2.0) as node:
            view = await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert view.state == "COMMITTED"
            assert {path: fake.get("data", f"out/{path}") for path in FILES} == FILES
            assert all(fault.done for fault in scripted)
            assert not node.counters.snapshot().get("persist.failed")
        async with node_at(tmp_path, "b") as node:
            await arrived(node, await made(node, source_set="gs://data/out"))
            check(node, FILES)

    run(story())


LASTING = {
    "endless-503": ("503", {}, OriginUnavailable, "HTTP 503"),
    "endless-reset": ("reset", {}, OriginUnavailable, "connection was lost"),
    "expired": ("401", {}, Forbidden, "the node has no account"),
    "denied": ("403", {}, Forbidden, "denies"),
    "replaced": ("replace_between", {"data": bytes(len(BIG))}, OriginChanged, "replaced or deleted"),
    "always-wrong": ("flip", {"at": 5}, IntegrityFailed, "bytes"),
}


@pytest.mark.parametrize(("kind", "args", "error", "words"), LASTING.values(), ids=LASTING)
def test_what_lasts_while_objects_are_read_names_object_and_cause(tmp_path, fake, kind, args, error, words):
    async def story():
        fill(fake)
        if kind == "replace_between":  # the second range finds another generation
            fake.faults.add("cut", data_of("media"), 1, at=MIB)
        fake.faults.add(kind, data_of("media"), None, **args)
        async with node_at(tmp_path, patience=0.3) as node:
            with pytest.raises(error, match=f"gs://data/in/big.*{words}") as refused:
                await made(node, source="gs://data/in")
            assert refused.value.hint
            assert left_behind(node) == NOTHING

    run(story())


@pytest.mark.parametrize(("kind", "args", "error", "words"), LASTING.values(), ids=LASTING)
def test_what_lasts_while_a_kept_set_is_read_is_said_and_tried_again(
    tmp_path, fake, kind, args, error, words
):
    async def story():
        await keep(tmp_path)
        if kind == "replace_between":
            fake.put("data", "out/big", args["data"])
        else:
            fake.faults.add(kind, data_of("media"), None, **args)
        async with node_at(tmp_path, patience=0.3) as node:
            view = await made(node, source_set="gs://data/out")
            await until(lambda: node.counters.snapshot().get("receive.failed"))
            said = node.rejections.own(view.id).reason
            assert "gs://data/out/big" in said
            assert words in said
            if kind != "replace_between":
                fake.faults.clear()
                await arrived(node, view, again=True)
                check(node, FILES)

    run(story())


@pytest.mark.parametrize(("kind", "args", "error", "words"), LASTING.values(), ids=LASTING)
def test_what_lasts_while_a_description_is_read_leaves_nothing(tmp_path, fake, kind, args, error, words):
    async def story():
        await keep(tmp_path)
        if kind == "replace_between":
            fake.put("data", "out/.cached/manifest", b"another")
        else:
            fake.faults.add(kind, {"kind": "media", "name": "out/.cached/manifest"}, None, **args)
        async with node_at(tmp_path, patience=0.3) as node:
            with pytest.raises(error, match=f"gs://data/out/.cached/manifest.*{words}"):
                await made(node, source_set="gs://data/out")
            assert left_behind(node) == NOTHING

    run(story())


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("503", OriginUnavailable, "HTTP 503"),
        ("reset", OriginUnavailable, "connection was lost"),
        ("401", Forbidden, "the node has no account"),
        ("403", Forbidden, "denies"),
    ],
)
def test_what_lasts_while_a_set_is_sent_is_said_and_tried_again(tmp_path, fake, kind, error, words):
    async def story():
        fake.faults.add(kind, data_of("upload"), None)
        async with node_at(tmp_path, patience=0.3) as node:
            with pytest.raises(error, match=f"gs://data/out/big.*{words}") as refused:
                await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert "the set is committed on this node" in refused.value.message
            check(node, FILES)
            fake.faults.clear()
            await until(lambda: "out/.cached/set" in fake.names("data"))
            assert fake.get("data", "out/big") == BIG

    run(story())


def test_an_object_of_somebody_else_is_not_overwritten(tmp_path, fake):
    async def story():
        fake.put("data", "out/big", b"somebody else's")
        async with node_at(tmp_path) as node:
            with pytest.raises(OriginChanged, match="gs://data/out/big is there already"):
                await persisted(node, ADA, "nr", FILES, "gs://data/out")
            assert fake.get("data", "out/big") == b"somebody else's"
            assert "out/.cached/set" not in fake.names("data")

    run(story())


@pytest.mark.parametrize("way", ["source", "source_set", "origin"])
def test_a_bucket_that_is_missing_is_named(tmp_path, fake, way):
    async def story():
        async with node_at(tmp_path) as node:
            making = (
                persisted(node, ADA, "nr", FILES, "gs://absent/out")
                if way == "origin"
                else made(node, **{way: "gs://absent/out"})
            )
            with pytest.raises(NotFound, match="no such bucket: gs://absent") as refused:
                await making
            assert refused.value.hint

    run(story())


@pytest.mark.parametrize("base", ["", "/"], ids=["bucket", "bucket-slash"])
def test_a_whole_bucket_is_a_prefix_too(tmp_path, fake, base):
    async def story():
        await keep(tmp_path, target=f"gs://data{base}")
        assert {path: fake.get("data", path) for path in FILES} == FILES
        async with node_at(tmp_path) as node:
            await arrived(node, await made(node, source_set=f"gs://data{base}"))
            check(node, FILES)
        async with node_at(tmp_path, "b") as node:
            view = await made(node, source=f"gs://data{base}")
            assert view.files == len(FILES), "what makes it a kept set is no file of it"
            check(node, FILES)

    run(story())


ODD = ["a//b", "../up", "d/../x", "./a", "a\tb", "a\x7fb", "x" * 300]
LONG = "/".join(["n" * 200] * 4) + "/" + "m" * 200


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[:12])
def test_an_object_whose_name_cannot_be_a_path_is_named_and_nothing_is_read(tmp_path, fake, name):
    async def story():
        fill(fake)
        fake.put("data", f"in/{name}", b"1")
        async with node_at(tmp_path) as node:
            with pytest.raises(BadName) as refused:
                await made(node, source="gs://data/in")
            assert repr(f"gs://data/in/{name}") in refused.value.message
            assert left_behind(node) == NOTHING
            assert fake.counts["media"] == 0

    run(story())


def test_odd_names_that_can_be_paths_go_there_and_back(tmp_path, fake):
    names = [LONG, "a b", "ü/ß?", "x#1", "%2F", "c:d\\e", "-n", "~", "*", "a/b.c/", "é" * 100]
    files = {name: name.encode() for name in names if not name.endswith("/")}

    async def story():
        await keep(tmp_path, files)
        fill(fake, files)
        fake.put("data", "in/a/b.c/", b"")
        async with node_at(tmp_path) as node:
            await arrived(node, await made(node, source_set="gs://data/out"))
            check(node, files)
        async with node_at(tmp_path, "b") as node:
            view = await made(node, source="gs://data/in")
            check(node, files)
            manifest = node.stores["disk"].manifest(view.content)
            assert "a/b.c" in {one.path for one in manifest.entries if one.kind == "dir"}

    run(story())

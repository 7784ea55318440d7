"""Bytes that no node has: made again from a document, read once by all who want them, repaired from the origin."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import msgspec
import pytest
from cached import wire
from cached.errors import Forbidden, IntegrityFailed, NameTaken, NotFound, PeerUnreachable, UsageError
from cached.node import (
    begin,
    drive,
    fetch,
    offer,
    persist,
    pool,
    pooltable,
    read,
    receive,
    recover,
    sources,
    verify,
)
from cached.peers.records import Peer
from cached.replication import placement, reading
from cached.sets.names import parse_ref
from tests.node.fakes import NOTHING, caller, create_set, hand_over, left_behind, until, world
from tests.origin.memory_origin import MemoryOrigin

ADA = caller("ada")
BOB = caller("bob")
MIB = 1 << 20
FILES = {"big": os.urandom(5 * MIB + 77), "d/b": os.urandom(40_000), "d/e/c": b"", "x": b"x"}
SIZE = sum(map(len, FILES.values()))
NR = parse_ref("nr")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(receive, "PAUSE", 0.05)
    monkeypatch.setattr(reading, "SETTLE", 0.1)


async def node_with(w, origin, name, **config):
    node = await w.node(name, buckets={"data": ("*",)}, **config)
    node.origin = origin
    persist.resume_all(node)
    return node


async def kept(tmp_path, files=None):
    """Return an origin that keeps a set, made by a node that is gone."""
    origin = MemoryOrigin()
    origin.bucket("data")
    (tmp_path / "first").mkdir()
    async with world(tmp_path / "first") as w:
        node = await node_with(w, origin, "first")
        creation = await hand_over(node, ADA, "nr", files or FILES, origin="gs://data/out")
        await creation.seal()
        view = await creation.kept()
    origin.stats.bytes_in = 0
    return origin, view


async def made(node, who, name, **options):
    creation = await begin.begin(node, who, name, wire.CreateOptions(**options), 0, 0)
    try:
        await creation.draw()
        return await creation.seal()
    finally:
        await creation.abort()


async def committed(node, set_id, seconds=60.0):
    await until(
        lambda: (row := node.shelf.replicas.get(set_id)) is not None and row.state == "COMMITTED", seconds
    )


def check(node, who=ADA, name="nr"):
    for path, data in FILES.items():
        found = read.open_now(node, who, parse_ref(name), path)
        with os.fdopen(found.fd, "rb") as file:
            assert file.read() == data
        read.release(node, found.pin)


def data_read(origin):
    return sum(1 for kind, _, address in origin.asked if kind == "media" and ".cached/" not in address.name)


def run(story):
    asyncio.run(story)


def test_a_set_is_made_again_from_its_document_and_the_bytes_follow(tmp_path):
    async def story():
        origin, old = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            held = asyncio.Event()

            async def before(kind, address):
                if kind == "media" and ".cached/" not in address.name:
                    await held.wait()

            origin.before, origin.asked = before, []
            view = await made(node, BOB, "again", source_set="gs://data/out/", lease_seconds=500)
            assert (view.content, view.owner, view.origin) == (old.content, "bob", "gs://data/out")
            assert node.shelf.replicas[view.id].state == "TRANSFERRING"
            held.set()
            await committed(node, view.id)
            check(node, BOB, "again")
            left = left_behind(node)
            assert (left["incoming"], left["reservations"], left["transfers"]) == ([], [], [])
            again = await made(node, BOB, "again", source_set="gs://data/out")
            assert again.id == view.id
            with pytest.raises(NameTaken):
                await made(node, BOB, "again", source_set="gs://data/out", share="public")

    run(story())


def test_a_document_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            good = origin.content("data", "out/.cached/set")
            cases = [
                (b"no json", IntegrityFailed),
                (json.dumps({**json.loads(good), "content": "0" * 64}).encode(), IntegrityFailed),
                (json.dumps({**json.loads(good), "bytes": 5}).encode(), IntegrityFailed),
                (json.dumps({**json.loads(good), "format": 9}).encode(), IntegrityFailed),
            ]
            for data, error in cases:
                origin.store("data", "out/.cached/set", data)
                with pytest.raises(error):
                    await made(node, BOB, "nr", source_set="gs://data/out")
                assert left_behind(node) == NOTHING
            with pytest.raises(NotFound, match="no set is kept below"):
                await made(node, BOB, "nr", source_set="gs://data/nothing")
            with pytest.raises(Forbidden):
                await made(node, BOB, "nr", source_set="gs://other-bucket/out")
            assert left_behind(node) == NOTHING

    run(story())


def test_a_document_gives_nobody_the_bytes_of_somebody_elses_set(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            private = await create_set(node, ADA, "private", FILES)
            origin.store(
                "data", "out/big", b"?" * len(FILES["big"])
            )  # it is no longer what the document says
            view = await made(node, BOB, "stolen", source_set="gs://data/out")
            assert view.content == private.content
            await until(lambda: node.counters.snapshot().get("receive.origin_failed"), 60)
            assert node.shelf.replicas[view.id].state == "TRANSFERRING"
            assert read.open_now(node, BOB, parse_ref("stolen"), "x") is None

    run(story())


def test_nor_does_a_node_give_others_what_it_has_of_such_a_set(tmp_path):
    async def story():
        files = {"x": b"a secret", "y": b"another"}
        origin, _ = await kept(tmp_path, files)
        async with world(tmp_path) as w:
            a, b = await node_with(w, origin, "a"), await w.node("b")
            await create_set(a, ADA, "private", files, replicas=0)
            for name, data in files.items():
                origin.store("data", f"out/{name}", b"?" * len(data))
            view = await made(a, BOB, "stolen", source_set="gs://data/out", replicas=-1)
            await w.gossip()
            known = a.shelf.known[view.id]
            assert not sources.proven(a, known)
            proposed = await offer.make(a, known)
            assert (proposed.content, proposed.metadata, proposed.joined) == (b"", b"", None)
            await drive.look_after(a, known)
            await asyncio.sleep(0.5)
            held = b.shelf.replicas.get(view.id)
            assert held is None or held.state == "TRANSFERRING"
            assert read.open_now(b, BOB, parse_ref("stolen"), "x") is None

    run(story())


def test_a_transfer_from_the_origin_goes_on_after_a_crash(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            count = 0

            async def before(kind, address):
                nonlocal count
                if kind == "media" and ".cached/" not in address.name:
                    count += 1
                    if count > 3:
                        await asyncio.sleep(3600)

            origin.before = before
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await until(lambda: node.counters.snapshot().get("origin.set_bytes_read"), 60)
            await w.crash("a")
            origin.before = None
            node = await node_with(w, origin, "a")
            assert w.findings.transfers
            await receive.resume_all(node, w.findings.transfers)
            assert view.id in node.unproven
            await committed(node, view.id)
            check(node)

    run(story())


async def many(w, origin, count):
    nodes = [await node_with(w, origin, f"n{number}") for number in range(count)]
    await w.gossip()
    return nodes


def test_nodes_that_want_what_only_the_origin_has_read_it_once_in_all(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LEASE", 60.0)  # nobody dies here, however slow the machine is

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            nodes = await many(w, origin, 4)
            origin.asked = []
            moved = origin.stats.bytes_in

            async def before(kind, _address):
                if kind == "media":
                    await asyncio.sleep(0.02)

            origin.before = before
            view = await made(nodes[0], ADA, "nr", source_set="gs://data/out", replicas=-1)
            known = nodes[0].shelf.known[view.id]
            await until(lambda: view.id in nodes[0].drawing, 60)
            assert drive.drives(nodes[0], known)
            await drive.look_after(nodes[0], known)
            for node in nodes:
                await committed(node, view.id)
                check(node)
            metadata_bytes = sum(
                len(origin.content("data", name)) for name in origin._buckets["data"] if ".cached/" in name
            )
            assert origin.stats.bytes_in - moved <= 1.02 * SIZE + metadata_bytes
            got = sum(node.counters.snapshot().get("origin.set_bytes_got", 0) for node in nodes)
            read_ = sum(node.counters.snapshot().get("origin.set_bytes_read", 0) for node in nodes)
            assert read_ == SIZE
            assert got + read_ == 4 * SIZE or any(
                node.direct.received for node in nodes
            )  # those who came late had whole holders

    run(story())


def test_a_set_that_no_node_holds_is_brought_by_whoever_wants_it(tmp_path, monkeypatch):
    # The table, when it is kept by the node that is left, counts on the other one until its lease has ended.
    monkeypatch.setattr(reading, "LEASE", 0.3)

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            a, b = await many(w, origin, 2)
            view = await made(a, ADA, "nr", source_set="gs://data/out", replicas=0)
            await committed(a, view.id)
            await w.gossip()
            w.down.add("n0")
            b.directory.world.down.add("n0")
            await fetch.fetch(b, ADA, NR, None)
            check(b)

    run(story())


def test_a_reader_that_dies_is_replaced_and_a_keeper_too(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            nodes = await many(w, origin, 3)
            stuck, others_may = asyncio.Event(), asyncio.Event()
            first = {}

            async def before(kind, address):
                if kind != "media" or ".cached/" in address.name:
                    return
                if not first:
                    first[asyncio.current_task()] = True
                    stuck.set()
                    await asyncio.sleep(3600)
                await others_may.wait()

            origin.before = before
            view = await made(nodes[0], ADA, "nr", source_set="gs://data/out")
            async with asyncio.timeout(60):
                await stuck.wait()
            await drive.look_after(nodes[0], nodes[0].shelf.known[view.id])
            await until(lambda: view.id in nodes[1].drawing and view.id in nodes[2].drawing, 60)
            w.down.add("n0")
            await w.crash("n0")
            others_may.set()
            for node in nodes[1:]:
                await committed(node, view.id)
                check(node)

    run(story())


def test_who_stops_drawing_leaves_no_thread_that_still_looks_at_the_files(tmp_path, monkeypatch):
    begun, go, looked, real = threading.Event(), threading.Event(), [], pool.scan

    def scan(*args, **others):
        begun.set()
        assert go.wait(60)
        try:
            return real(*args, **others)
        finally:
            looked.append(args)

    monkeypatch.setattr(pool, "scan", scan)

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            assert await asyncio.to_thread(begun.wait, 60)
            receiving = node.flights[f"receive {view.id}"]
            receiving.cancel()
            asyncio.get_running_loop().call_later(0.05, go.set)
            await asyncio.wait({receiving}, timeout=60)
            assert looked

    try:
        run(story())
    finally:
        go.set()


def test_what_keeps_everybody_from_reading_is_said_and_tried_again(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            origin.deny("data", None, "out/big")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await until(lambda: node.counters.snapshot().get("receive.failed"), 60)
            assert "gs://data/out/big" in node.rejections.own(view.id).reason
            assert node.shelf.replicas[view.id].state == "TRANSFERRING"

    run(story())


def wrong(origin, times):
    """Have the first `times` ranges of `big` come with a byte changed."""
    real, left = origin.read, [times]

    async def read_(pinned, start, stop, *, token):
        data = await real(pinned, start, stop, token=token)
        if pinned.name == "out/big" and left[0]:
            left[0] -= 1
            return b"!" + data[1:] if data[:1] != b"!" else b"?" + data[1:]
        return data

    origin.read = read_


def test_a_byte_that_comes_wrong_once_is_read_again_at_once_and_nobody_stands_back(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            wrong(origin, 2)
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await committed(node, view.id)
            check(node)
            counts = node.counters.snapshot()
            assert counts["origin.read_again"] == 2
            assert "origin.not_read" not in counts

    run(story())


def test_what_comes_wrong_again_and_again_makes_its_reader_stand_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "READS", 2)

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            wrong(origin, 1000)
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await until(lambda: node.counters.snapshot().get("receive.failed"), 60)
            assert "gs://data/out/big" in node.rejections.own(view.id).reason
            assert node.counters.snapshot()["origin.not_read"]

    run(story())


def test_a_keeper_that_was_passed_over_is_asked_again_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PASSED_OVER", 0.5)
    monkeypatch.setattr(pool, "TICK", 0.02)
    monkeypatch.setattr(reading, "LEASE", 60.0)

    async def story():
        origin, old = await kept(tmp_path)
        async with world(tmp_path) as w:
            nodes = await many(w, origin, 2)
            keeper = placement.rendezvous(old.content, [node.id for node in nodes])[0]
            other = next(node for node in nodes if node.id != keeper)
            go, asked, real = asyncio.Event(), [], other.link.call

            async def call(node_id, method, body, timeout):
                if method == "origin.share":
                    asked.append(asyncio.get_running_loop().time())
                    if len(asked) <= pool.SILENCES:
                        raise PeerUnreachable("it does not answer")
                    go.set()
                return await real(node_id, method, body, timeout)

            async def before(kind, address):
                if kind == "media" and ".cached/" not in address.name:
                    await go.wait()

            other.link.call, origin.before = call, before
            view = await made(other, ADA, "nr", source_set="gs://data/out")
            await committed(other, view.id)
            assert len(asked) > pool.SILENCES
            assert other.counters.snapshot()["origin.keeper_silent"] == 1
            assert asked[pool.SILENCES] - asked[pool.SILENCES - 1] >= 0.5

    run(story())


def test_a_damaged_file_is_repaired_from_the_origin(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await committed(node, view.id)
            place = node.stores["disk"].data(view.content) / "d/b"
            place.chmod(0o644)
            place.write_bytes(b"z" * len(FILES["d/b"]))
            assert verify.has_holder(node, view.content)
            said = await verify.verify(node, ADA, NR, True, None)
            assert said.ok
            assert [one.path for one in said.damaged if one.repaired] == ["d/b"]
            check(node)
            assert node.counters.snapshot()["origin.files_repaired"] == 1

    run(story())


def test_all_holders_lost_their_bytes_and_the_origin_gives_them_back(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await committed(node, view.id)
            trashed = node.stores["disk"].retire(view.content)
            node.stores["disk"].empty(trashed)
            await w.crash("a")
            node = await node_with(w, origin, "a")
            await recover.afterwards(node, w.findings)
            await committed(node, view.id)
            check(node)

    run(story())


def test_strangers_are_told_nothing_and_nonsense_is_refused(tmp_path):
    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            ask = reading.Ask(set=view.id, content=view.content, blocks=6, have="0")
            friend = Peer(node_id="f" * 40, domains=node.identity.domains)
            with pytest.raises(Forbidden):
                await pooltable.share(node, Peer(node_id="f" * 40, domains=frozenset({"elsewhere"})), ask)
            with pytest.raises(Exception, match="hex"):
                await pooltable.share(node, friend, msgspec.structs.replace(ask, have="zz"))
            for nonsense in (
                {"getting": {"17179869184": friend.node_id}},
                {"getting": {"-1": friend.node_id}},
                {"getting": {"x": friend.node_id}},
                {"blocks": 1 << 40},
                {"blocks": 0},
                {"blocks": -1},
                {"content": "0" * 64},
                {"set": "0" * 32, "blocks": 1 << 40},
            ):
                with pytest.raises(UsageError):
                    await pooltable.share(node, friend, msgspec.structs.replace(ask, **nonsense))
            assert (await pooltable.share(node, friend, ask)).members == 1

    run(story())


def test_a_keeper_that_gives_nothing_to_do_keeps_nobody_waiting_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "ALONE", 0.2)
    hopeless = reading.Share(hopeless="gs://data/out/big: HTTP 403", code="forbidden", silent=("nobody",))
    monkeypatch.setattr(pooltable, "answer", lambda *_: hopeless)

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await committed(node, view.id)
            assert node.counters.snapshot()["origin.read_alone"] == 6
            assert node.counters.snapshot()["origin.set_bytes_read"] == SIZE

    run(story())


def test_a_member_that_gives_a_byte_now_and_then_keeps_nobody_waiting_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "ALONE", 0.2)
    monkeypatch.setattr(pool, "STALL", 0.5)
    monkeypatch.setattr(pool, "SLOWEST", 1 << 40)
    asked = []

    def always_the_same(_node, _who, ask):
        if "drip" in ask.avoid:
            return reading.Share()
        missing = [block for block in range(ask.blocks) if not int(ask.have, 16) >> block & 1]
        free = [block for block in missing if str(block) not in ask.getting]
        return reading.Share(get=tuple((block, "drip") for block in free[: ask.get]))

    async def drip(node_id, *_):
        asked.append(node_id)
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def agreed(*_):
        return {}

    monkeypatch.setattr(pooltable, "answer", always_the_same)

    async def story():
        origin, _ = await kept(tmp_path)
        async with world(tmp_path) as w:
            node = await node_with(w, origin, "a")
            node.link.fetch, node.link.call = drip, agreed
            view = await made(node, ADA, "nr", source_set="gs://data/out")
            await committed(node, view.id, 30)
            assert set(asked) == {"drip"}
            assert node.counters.snapshot()["origin.set_bytes_read"] == SIZE

    run(story())

"""Offers, transfers and what becomes of them: nodes exchange real bytes through real use cases."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached import faults
from cached.errors import CachedError, Forbidden, NoSource, NotFound, RequirementsRefused
from cached.leases import capacity
from cached.node import drive, fetch, metadata, read, receive, revise, sources
from cached.peers.records import Peer
from cached.sets.names import parse_ref
from tests.node.fakes import (
    NOTHING,
    caller,
    create_set,
    left_behind,
    until,
    world,
)

ALICE = caller("alice")
NR = parse_ref("nr")
FILES = {"f": os.urandom(300_000), "dir/g": b"more", "empty": b""}


def peer(node) -> Peer:
    return Peer(node_id=node.id, domains=node.identity.domains)


async def two(w, **config):
    a, b = await w.node("a"), await w.node("b", **config)
    view = await create_set(a, ALICE, "nr", FILES, lease_seconds=1000)
    await w.gossip()
    return a, b, view


def bytes_of(node, ref):
    set_ref = parse_ref(ref)
    found = read.open_now(node, ALICE, set_ref, set_ref.path)
    with os.fdopen(found.fd, "rb") as file:
        data = file.read()
    read.release(node, found.pin)
    return data


async def settled(node, set_id):
    """Wait until nothing moves to the node any more."""
    await until(lambda: set_id not in node.transfers)


def test_an_accepted_offer_is_durable_before_it_is_spoken_and_ends_committed(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert (answer.answer, answer.grant_seconds) == ("OK", 1000)
            stored = b.catalog.read_now(lambda tx: (tx.replica(view.id), tx.transfers(), tx.reservations()))
            assert stored[0].state in ("TRANSFERRING", "COMMITTED")
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")
            await settled(b, view.id)
            assert bytes_of(b, "nr/f") == FILES["f"]
            left = left_behind(b)
            assert (left["incoming"], left["reservations"], left["transfers"], left["reserved"]) == (
                [],
                [],
                [],
                0,
            )
            manifest = b.stores["disk"].manifest(view.content)
            assert b.shelf.contents[(view.content, "disk")].physical == capacity.physical(manifest)
            assert [one.record().id for one in b.stores["disk"].get_records(view.content)] == [view.id]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("config", "words"),
    [({"capacity": 100_000}, "bytes"), ({"quota": 10}, "quota"), ({"methods": ()}, "method")],
)
def test_a_node_that_cannot_says_why_and_keeps_nothing(tmp_path, config, words):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w, **config)
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert answer.answer == "REJECTED"
            assert words in answer.reason
            assert left_behind(b) == NOTHING
            entry = a.directory.node("b")
            assert a.rejections.stands(view.id, b.id, drive.ads_digest(a, a.shelf.known[view.id], entry))
            with pytest.raises(CachedError) as caught:
                await fetch.fetch(b, ALICE, NR, None)
            assert words in caught.value.message

    asyncio.run(story())


def test_the_receiver_matches_again_and_no_byte_moves_against_its_will(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            b.matchmaker.judge = lambda _set, _node: "node side: Owner is mallory"
            answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            assert (answer.answer, answer.code) == ("REJECTED", "requirements_refused")
            assert left_behind(b) == NOTHING
            a.matchmaker.judge = lambda set_ad, _node: "" if set_ad["CacheRequested"] is False else "no jobs"
            b.matchmaker.judge = lambda _set, _node: ""
            with pytest.raises(RequirementsRefused):
                await fetch.fetch(b, ALICE, NR, None)
            assert left_behind(b) == NOTHING

    asyncio.run(story())


def test_a_memory_set_is_refused_where_there_is_no_memory_tier(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a", memory=True)
            b, c = await w.node("b"), await w.node("c", memory=True)
            view = await create_set(a, ALICE, "nr", FILES, tier="memory")
            await w.gossip()
            known = a.shelf.known[view.id]
            answer = await drive.offer_to(a, known, a.directory.node("b"))
            assert (answer.answer, answer.code) == ("REJECTED", "requirements_refused")
            assert left_behind(b) == NOTHING
            assert (await drive.offer_to(a, known, a.directory.node("c"))).answer == "OK"
            await until(lambda: c.shelf.replicas[view.id].state == "COMMITTED")
            assert c.directory.published.replicas[0].volatile
            assert bytes_of(c, "nr/f") == FILES["f"]

    asyncio.run(story())


def test_two_sets_of_one_content_offered_at_once_move_its_bytes_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            views = [await create_set(a, ALICE, name, FILES) for name in ("one", "two", "three")]
            await w.gossip()
            target = a.directory.node("b")
            answers = await asyncio.gather(
                *(drive.offer_to(a, a.shelf.known[view.id], target) for view in views)
            )
            assert [answer.answer for answer in answers] == ["OK"] * 3
            for view in views:
                await until(lambda view=view: b.shelf.replicas[view.id].state == "COMMITTED")
                await settled(b, view.id)
            assert a.direct_server.sent[views[0].content] == sum(map(len, FILES.values()))
            assert len(b.stores["disk"].list_contents()) == 1
            assert {one.record().id for one in b.stores["disk"].get_records(views[0].content)} == {
                view.id for view in views
            }
            assert left_behind(b)["reserved"] == 0
            await revise.delete(b, ALICE, parse_ref("one"), False, False)
            await until(lambda: views[0].id not in b.shelf.replicas)
            assert bytes_of(b, "two/f") == FILES["f"], "the bytes stay as long as a set needs them"

    asyncio.run(story())


def test_many_jobs_that_want_a_set_at_once_fetch_it_once(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            seen = []
            opened = await asyncio.gather(
                *(read.open_path(b, ALICE, NR, "f", fetch=True, progress=seen.append) for _ in range(8))
            )
            for found in opened:
                os.close(found.fd)
            assert a.direct_server.sent[view.content] == sum(map(len, FILES.values()))
            assert seen
            with pytest.raises(NotFound):
                await read.open_path(b, ALICE, parse_ref("nope"), "f", fetch=True)

    asyncio.run(story())


def test_a_reader_who_goes_away_stops_only_the_wait(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            for patience in range(5):
                task = asyncio.create_task(fetch.fetch(b, ALICE, NR, None))
                await asyncio.sleep(0.003 * patience)
                task.cancel()
                await asyncio.wait({task})
                row = b.shelf.replicas.get(view.id)
                assert row is None or row.state == "COMMITTED" or view.id in b.transfers, (
                    "promised, so under way"
                )
            await fetch.fetch(b, ALICE, NR, None)
            await settled(b, view.id)
            left = left_behind(b)
            assert (left["incoming"], left["reservations"], left["transfers"]) == ([], [], [])
            assert a.shelf.replicas[view.id].state == "COMMITTED"

    asyncio.run(story())


def test_without_a_replica_and_without_fetching_a_read_is_not_found(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, _ = await two(w)
            with pytest.raises(NotFound):
                await read.open_path(b, ALICE, NR, "f", fetch=False)
            w.down.add("a")
            with pytest.raises(NoSource):
                await read.open_path(b, ALICE, NR, "f", fetch=True)

    asyncio.run(story())


def test_files_of_a_set_held_elsewhere_are_listed_after_an_introduction(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _, b, _ = await two(w)
            assert [one.path for one in await read.files(b, ALICE, NR)] == ["dir", "dir/g", "empty", "f"]

    asyncio.run(story())


def test_metadata_and_bytes_go_only_to_whom_this_node_has_agreed(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            for content in (view.content, "0" * 64):
                with pytest.raises(Forbidden):
                    await metadata.serve(a, peer(b), {"content": content}, None)
            with pytest.raises(NotFound):
                async for _ in b.link.fetch(a.id, "content", {"content": view.content, "ranges": [[0, 1]]}):
                    pass
            joined = await sources.join(a, peer(b), view.id, {})
            assert joined.complete
            assert a.consents.allowed(b.id, view.content)
            with pytest.raises(NotFound):
                await sources.join(a, peer(b), "0" * 32, {})

    asyncio.run(story())


def test_a_transfer_cut_short_goes_on_after_a_restart_without_its_metadata_being_sent_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            reached = asyncio.Event()

            async def hold(_node_id, what):
                if what == "content":
                    reached.set()
                    await asyncio.Event().wait()

            b.link.before = hold
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await reached.wait()
            await w.crash("b")
            b = await w.node("b")
            assert b.shelf.replicas[view.id].state == "TRANSFERRING"
            assert b.space.reserved("disk") > 0
            await receive.resume_all(b, w.findings.transfers)
            await until(lambda: b.shelf.replicas[view.id].state == "COMMITTED")
            assert bytes_of(b, "nr/f") == FILES["f"]
            assert (a.id, "metadata") not in b.link.calls
            await settled(b, view.id)
            assert view.id not in b.sources

    asyncio.run(story())


@pytest.mark.parametrize(
    "step", ["receive.metadata", "receive.prepared", "receive.transferred", "receive.published"]
)
def test_an_unexpected_failure_ends_the_transfer_and_leaves_nothing(tmp_path, step):
    async def story():
        async with world(tmp_path) as w:
            a, b, view = await two(w)
            faults.arm(f"{step}:error")
            try:
                answer = await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
                assert answer.answer == "OK"
                await until(lambda: view.id not in b.shelf.replicas)
                await settled(b, view.id)
            finally:
                faults.arm("")
            assert left_behind(b) == NOTHING
            assert b.counters.snapshot()["background_failed"] == 1
            assert "the transfer failed" in b.rejections.own(view.id).reason
            await fetch.fetch(b, ALICE, NR, None)
            assert bytes_of(b, "nr/f") == FILES["f"]

    asyncio.run(story())

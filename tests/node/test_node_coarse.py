"""A set that goes to many nodes at once travels with its coarse digests alone; the leaves are made where it arrives."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import msgspec
import pytest
from cached.errors import IntegrityFailed, NoSource, NoSpace
from cached.node import beside, digests, drive, enclosing, fetch, metadata, offer, receive
from cached.node.joined import Enclosed
from cached.peers.records import Peer
from cached.replication import layout, method
from cached.sets import coarse as coarsely
from cached.sets.coarse import Coarse
from cached.sets.merkle import hash_leaves
from cached.sets.names import parse_ref
from cached.storage import repair, scrub
from cached.storage.leafmaker import LeafMaker
from msgspec.structs import replace
from tests.node.doubles import FakeSwarm
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
FILES = {
    "large": os.urandom(digests.COARSE_FROM),
    "dir/middle": os.urandom(40_000),
    "small": b"more",
    "empty": b"",
}


@pytest.fixture(autouse=True)
def small_sets_are_shared(monkeypatch):
    monkeypatch.setattr(method, "DIRECT_UP_TO", 1 << 20)


class CopyingSwarm(FakeSwarm):
    """A swarm whose bytes come from a directory, told of in pieces; `spoil` may change them on the way."""

    def __init__(self, source, spoil=lambda path, data: data) -> None:
        super().__init__()
        self.source, self.spoil = source, spoil

    async def fetch(self, job, *_) -> None:
        self.jobs.append(job)
        made = layout.build(job.content, job.manifest, job.digests, job.piece_size, self.pack(job))
        for entry in job.manifest.files():
            if entry.path in job.linked:
                continue
            (job.data / entry.path).write_bytes(
                self.spoil(entry.path, (self.source / entry.path).read_bytes())
            )
        if job.arrived is not None:
            job.arrived([place for place in made.piece_places if place[0]])
        await asyncio.sleep(0.02)

    def pack(self, job):
        data = b"".join((self.source / entry.path).read_bytes() for entry in layout.packed(job.manifest))
        return layout.describe_pack(hash_leaves(data), size=len(data), piece=job.piece_size)


async def offered(w, **config):
    """Node a offers b a set that goes to eight; what b reads of streams and their queries is recorded."""
    a, b = await w.node("a"), await w.node("b", **config)
    view = await create_set(a, ALICE, "nr", FILES, replicas=0)
    await w.gossip()
    a.consents.give(b.id, view.content)
    b.swarm = CopyingSwarm(a.stores["disk"].data(view.content))
    queries = recorded(b)
    return a, b, view, await offer.make(a, a.shelf.known[view.id], receivers=8), queries


def recorded(node):
    """The queries of the streams that a node reads from now on."""
    queries, fetch = [], node.link.fetch

    def fetching(peer, stream, query, timeout):
        queries.append(query)
        return fetch(peer, stream, query, timeout)

    node.link.fetch = fetching
    return queries


async def accepted(a, b, proposed) -> None:
    """Node b takes an offer of node a; the transfer begins."""
    answer = await offer.consider(b, Peer(node_id=a.id, domains=a.identity.domains), proposed)
    assert answer.answer == "OK"


async def taken(a, b, view, proposed) -> str:
    await accepted(a, b, proposed)
    await until(lambda: view.id not in b.transfers)
    row = b.shelf.replicas.get(view.id)
    return row.state if row is not None else ""


def leaves(node, view) -> bytes:
    return node.stores["disk"].leaves(view.content)


def test_an_offer_to_many_encloses_the_coarse_digests_and_the_receiver_makes_the_leaves(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)
            assert 0 < len(proposed.metadata) < len(leaves(a, view))
            assert await taken(a, b, view, proposed) == "COMMITTED"
            assert queries == []
            assert isinstance(b.swarm.jobs[0].digests, Coarse)
            assert leaves(b, view) == leaves(a, view)
            assert b.stores["disk"].coarse(view.content) == b.swarm.jobs[0].digests

    asyncio.run(story())


def test_what_does_not_come_with_the_offer_is_asked_for_without_the_leaves(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)
            assert await taken(a, b, view, replace(proposed, metadata=b"")) == "COMMITTED"
            assert [query["coarse"] for query in queries] == [True]
            assert isinstance(b.swarm.jobs[0].digests, Coarse)
            assert leaves(b, view) == leaves(a, view)

    asyncio.run(story())


def test_a_set_for_one_node_brings_its_leaves_along(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, _, queries = await offered(w)
            await drive.offer_to(a, a.shelf.known[view.id], a.directory.node("b"))
            await until(lambda: view.id not in b.transfers)
            assert b.swarm.jobs == []
            assert not any(query.get("coarse") for query in queries)
            assert leaves(b, view) == leaves(a, view)

    asyncio.run(story())


def test_whoever_falls_back_to_the_direct_method_does_not_ask_for_the_leaves_either(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)

            async def refuses(job, *_) -> None:
                b.swarm.jobs.append(job)
                raise NoSource("nobody listens")

            b.swarm.fetch = refuses
            assert await taken(a, b, view, proposed) == "COMMITTED"
            assert [query for query in queries if "coarse" in query] == []
            assert isinstance(b.swarm.jobs[0].digests, Coarse)
            assert leaves(b, view) == leaves(a, view)

    asyncio.run(story())


@pytest.mark.parametrize("path", ["large", "dir/middle"])
def test_bytes_that_are_not_what_the_digests_say_are_brought_again_another_way(tmp_path, path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)
            b.swarm.spoil = lambda name, data: data[:-1] + b"?" if name == path else data
            assert await taken(a, b, view, proposed) == "COMMITTED"
            assert (b.stores["disk"].data(view.content) / path).read_bytes() == FILES[path]
            assert leaves(b, view) == leaves(a, view)
            assert [query for query in queries if "coarse" in query] == []
            assert view.content in b.swarm.unseeded

    asyncio.run(story())


def test_bytes_that_never_are_what_the_digests_say_are_never_committed(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w, methods=("bittorrent",))
            monkeypatch.setattr(receive, "PAUSE", 0.01)
            b.swarm.spoil = lambda name, data: data[:-1] + b"?" if name == "large" else data
            assert await taken(a, b, view, proposed) == ""
            assert len(b.swarm.jobs) == receive.ROUNDS
            assert not b.stores["disk"].has(view.content)
            assert b.stores["disk"].list_incoming() == []
            assert "'large'" in b.rejections.own(view.id).reason

    asyncio.run(story())


def test_a_transfer_that_was_cut_short_goes_on_with_the_coarse_digests_that_it_had(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)
            begun, fetch = asyncio.Event(), b.swarm.fetch

            async def hangs(job, *_) -> None:
                begun.set()
                await asyncio.Event().wait()

            b.swarm.fetch = hangs
            await accepted(a, b, proposed)
            await begun.wait()
            txid = b.accepted[view.id]
            found = await metadata.staged(b.stores["disk"], txid, view.content)
            assert isinstance(found.digests, Coarse)
            b.draining = True
            b.flights[f"receive {view.id}"].cancel()
            await until(lambda: view.id not in b.transfers)
            b.draining, b.swarm.fetch = False, fetch
            receive.start(b, view.id, receivers=8)
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert leaves(b, view) == leaves(a, view)
            assert queries == []

    asyncio.run(story())


@pytest.mark.parametrize("how", ["swarm", "direct"])
def test_of_a_set_whose_files_lie_here_in_part_no_leaves_are_asked_and_none_are_made_of_what_is_here(
    tmp_path, monkeypatch, how
):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            await create_set(a, ALICE, "old", {"was": FILES["large"], "is": FILES["dir/middle"]}, replicas=0)
            await w.gossip()
            await fetch.fetch(b, ALICE, parse_ref("old"), None)
            new = FILES | {"new": os.urandom(digests.COARSE_FROM)}
            view = await create_set(a, ALICE, "nr", new, replicas=0)
            await w.gossip()
            a.consents.give(b.id, view.content)
            b.swarm = CopyingSwarm(a.stores["disk"].data(view.content))
            if how == "direct":
                monkeypatch.setattr(method, "DIRECT_UP_TO", digests.COARSE_FROM + 100)
            queries = recorded(b)
            read, reads = LeafMaker._read, []

            def reading(self, entry, start, end):
                reads.append(entry.path)
                return read(self, entry, start, end)

            monkeypatch.setattr(LeafMaker, "_read", reading)
            proposed = await offer.make(a, a.shelf.known[view.id], receivers=8)
            assert await taken(a, b, view, proposed) == "COMMITTED"
            assert len(b.swarm.jobs) == (how == "swarm")
            assert [query for query in queries if "coarse" in query] == []
            assert set(reads) <= {"new"}
            assert leaves(b, view) == leaves(a, view)
            assert b.direct.received.get(view.content, 0) < digests.COARSE_FROM + 10

    asyncio.run(story())


def test_a_broken_off_transfer_that_goes_on_alone_asks_for_no_leaves(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, queries = await offered(w)
            begun = asyncio.Event()

            async def half(job, *_) -> None:
                data = FILES["large"]
                (job.data / "large").write_bytes(data[:1_000_000] + bytes(len(data) - 1_000_000))
                begun.set()
                await asyncio.Event().wait()

            b.swarm.fetch = half
            await accepted(a, b, proposed)
            await begun.wait()
            b.draining = True
            b.flights[f"receive {view.id}"].cancel()
            await until(lambda: view.id not in b.transfers)
            b.draining = False
            b.config = msgspec.structs.replace(
                b.config, replication=msgspec.structs.replace(b.config.replication, methods=("direct",))
            )
            receive.start(b, view.id)
            await until(lambda: view.id not in b.transfers)
            assert b.shelf.replicas[view.id].state == "COMMITTED"
            assert leaves(b, view) == leaves(a, view)
            assert [query for query in queries if "coarse" in query] == []
            assert 0 < b.direct.received[view.content] < view.bytes - 900_000

    asyncio.run(story())


def test_whoever_is_receiving_gives_others_the_coarse_digests_and_not_the_leaves_it_lacks(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            c = await w.node("c")
            await w.gossip()
            begun, go_on, fetch = asyncio.Event(), asyncio.Event(), b.swarm.fetch

            async def waits(job, *more) -> None:
                begun.set()
                await go_on.wait()
                await fetch(job, *more)

            b.swarm.fetch = waits
            await accepted(a, b, proposed)
            await begun.wait()
            b.consents.give(c.id, view.content)
            known = c.shelf.known[view.id]
            found = await metadata.ask(c, b.id, known, coarse=True)
            assert isinstance(found.digests, Coarse)
            with pytest.raises(Exception, match="does not have its leaves yet"):
                await metadata.ask(c, b.id, known, coarse=False)
            go_on.set()
            await until(lambda: view.id not in b.transfers)
            whole = await metadata.ask(c, b.id, known, coarse=False)
            assert whole.leaves == leaves(a, view)
            assert (await metadata.ask(c, b.id, known, coarse=True)).digests == found.digests

    asyncio.run(story())


def test_coarse_digests_that_do_not_belong_to_the_content_are_not_believed(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            wrong = proposed.metadata[:-1] + bytes([proposed.metadata[-1] ^ 1])
            known = b.shelf.known[view.id]
            assert await enclosing.enclosed_in(Enclosed(a.id, None, wrong), known) is None
            right = await enclosing.enclosed_in(Enclosed(a.id, None, proposed.metadata), known)
            assert right is not None

    asyncio.run(story())


def test_a_transfer_that_is_given_up_does_not_wait_until_all_leaves_are_made(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            begun, seen = threading.Event(), []

            def reads_for_long(self, entry, start, end):
                begun.set()
                while not self._stopped:
                    time.sleep(0.001)
                seen.append(entry.path)
                yield start, b""

            monkeypatch.setattr(LeafMaker, "_read", reads_for_long)
            await accepted(a, b, proposed)
            await until(begun.is_set)
            await receive.cancel(b, view.id)
            assert view.id not in b.shelf.replicas
            assert b.stores["disk"].list_incoming() == []
            assert len(seen) <= 2

    asyncio.run(story())


def test_a_full_disk_while_leaves_are_made_is_met_with_what_was_set_aside(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            finish, full = LeafMaker.finish, [True]

            def finishes(self):
                if full:
                    raise NoSpace("the partition is full")
                finish(self)

            async def gives(node, flight) -> bool:
                gave.append(flight.set_id)
                if len(gave) == 2:
                    full.clear()
                return True

            gave = []
            monkeypatch.setattr(LeafMaker, "finish", finishes)
            monkeypatch.setattr(beside, "gave_all", gives)
            monkeypatch.setattr(receive, "PAUSE", 0.01)
            assert await taken(a, b, view, proposed) == "COMMITTED"
            assert leaves(b, view) == leaves(a, view)

    asyncio.run(story())


def test_coarse_digests_are_not_made_from_leaves_that_are_damaged(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            node = await w.node("a")
            view = await create_set(node, ALICE, "nr", FILES, replicas=0)
            store, manifest = node.stores["disk"], node.stores["disk"].manifest(view.content)
            path = store.home(view.content) / "leaves"
            right = path.read_bytes()
            path.chmod(0o600)
            path.write_bytes(right[:200] + bytes([right[200] ^ 1]) + right[201:])
            with pytest.raises(IntegrityFailed):
                digests.coarse_of(store, view.content, manifest)
            assert store.coarse(view.content) is None
            known = node.shelf.known[view.id]
            assert await enclosing.to_enclose(node, known.record, coarse=True) == (b"", b"")
            store.put_coarse(view.content, Coarse(b"made before"))
            assert repair.mend(store, view.content, scrub.verify(store, view.content)) == []
            assert path.read_bytes() == right
            assert store.coarse(view.content) is None
            coarsely.check(manifest, digests.coarse_of(store, view.content, manifest))

    asyncio.run(story())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("ends", ["committed", "failed", "cancelled"])
def test_a_transfer_that_has_ended_keeps_no_descriptor(tmp_path, monkeypatch, ends):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w, methods=("bittorrent",))
            monkeypatch.setattr(receive, "PAUSE", 0.001)
            begun = asyncio.Event()

            async def fails(job, *_) -> None:
                begun.set()
                if ends == "failed":
                    raise NoSource("nobody listens")
                await asyncio.Event().wait()

            before = descriptors()
            if ends != "committed":
                b.swarm.fetch = fails
            await accepted(a, b, proposed)
            if ends == "cancelled":
                await begun.wait()
                await receive.cancel(b, view.id)
            await until(lambda: view.id not in b.transfers)
            assert (view.id in b.shelf.replicas) == (ends == "committed")
            b.roots.close()
            assert descriptors() <= before

    asyncio.run(story())


def test_leaves_are_made_though_users_keep_all_copying_threads_waiting(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            users = threading.Event()
            for _ in range(16):
                b.copiers.submit(users.wait)
            try:
                assert await taken(a, b, view, proposed) == "COMMITTED"
            finally:
                users.set()

    asyncio.run(story())


def test_links_in_enclosed_metadata_are_followed_beside_the_event_loop(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            view = await create_set(a, ALICE, "nr", {"d/f": b"x"}, replicas=0)
            known = a.shelf.known[view.id]
            proposed = await offer.make(a, known)
            threads, parse = [], metadata.parse

            def parses(*args):
                threads.append(threading.current_thread() is threading.main_thread())
                return parse(*args)

            monkeypatch.setattr(metadata, "parse", parses)
            await enclosing.enclosed_in(Enclosed(a.id, None, proposed.metadata), known)
            linked = proposed.metadata.replace(b"\nf ", b"\nl ", 1)
            await enclosing.enclosed_in(Enclosed(a.id, None, linked), known)
            assert threads == [True, False]

    asyncio.run(story())


def test_what_is_too_much_to_come_with_an_offer_is_not_kept(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, view, proposed, _ = await offered(w)
            begun = asyncio.Event()

            async def waits(*_) -> None:
                begun.set()
                await asyncio.Event().wait()

            b.swarm.fetch = waits
            much = replace(proposed, content=bytes(1 << 20), metadata=bytes(1 << 20))
            await accepted(a, b, much)
            await begun.wait()
            enclosed = b.transfers[view.id].enclosed
            assert (enclosed.content, enclosed.metadata) == (b"", b"")
            await receive.cancel(b, view.id)

    asyncio.run(story())

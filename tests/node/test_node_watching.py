"""Whoever watches a set on its way asks those who receive it, and shows what they say."""

from __future__ import annotations

import asyncio
import os

from cached.errors import PeerUnreachable
from cached.node import offer, read, replicate, watching
from cached.peers.records import Peer
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
NR = parse_ref("nr")


async def coming(w):
    """Node a gives b a set, and b has some of it so far; nothing of that has been told."""
    a, b = await w.node("a"), await w.node("b")
    view = await create_set(a, ALICE, "nr", {"f": os.urandom(100_000)}, replicas=0)
    await w.gossip()
    go_on = asyncio.Event()

    async def fetch(job, *_more) -> None:
        job.progress.state, job.progress.bytes_present = "transferring", 0
        await go_on.wait()

    b.direct.fetch = fetch
    a.consents.give(b.id, view.content)
    proposed = await offer.make(a, a.shelf.known[view.id])
    await offer.consider(b, Peer(node_id=a.id, domains=a.identity.domains), proposed)
    await until(lambda: view.id in b.transfers and b.transfers[view.id].progress.state == "transferring")
    await w.gossip()
    b.transfers[view.id].progress.bytes_present = 70_000
    return a, b, view


def present(found, node):
    return {one.node: one.bytes_present for one in found}[node]


def test_show_says_how_far_the_others_are_at_this_moment(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, _, view = await coming(w)
            assert [
                one.holding.bytes_present for one in a.holders(view.id) if one.node.record.name == "b"
            ] == [0]
            assert present((await read.show(a, ALICE, NR)).replicas, "b") == 70_000

    asyncio.run(story())


def test_who_waits_and_watches_is_shown_what_the_receivers_say_and_who_only_waits_asks_nobody(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, _view = await coming(w)
            reports = []
            await replicate.replicate(a, ALICE, NR, None, ("b",), True, 0.5, None)
            assert watching.METHOD not in [method for _, method in a.link.calls]
            await replicate.replicate(a, ALICE, NR, None, ("b",), True, 0.5, reports.append)
            assert [one.bytes_present for one in reports[-1].nodes] == [70_000]
            assert (b.id, watching.METHOD) in a.link.calls

    asyncio.run(story())


def test_of_a_node_that_does_not_answer_what_was_heard_last_is_shown(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, _b, _ = await coming(w)

            def refuses(_node, method):
                if method == watching.METHOD:
                    raise PeerUnreachable("no answer")

            a.link.before = refuses
            assert present((await read.show(a, ALICE, NR)).replicas, "b") == 0

    asyncio.run(story())


def test_a_node_that_holds_nothing_of_a_set_says_so(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            _a, b, view = await coming(w)
            c = await w.node("c")
            assert watching.answer(c, view.id) is None
            assert watching.answer(b, view.id).bytes_present == 70_000

    asyncio.run(story())

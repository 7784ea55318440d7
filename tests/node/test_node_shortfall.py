"""Who has no copy although one was wanted: nodes that do not match, that refused, and whose transfer failed."""

from __future__ import annotations

import asyncio
import os

from cached.errors import IntegrityFailed, PeerUnreachable
from cached.node import drive, offer, receive, replicate
from cached.peers.records import Peer
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
NR = parse_ref("nr")


async def nodes(w, **of_b):
    """Node a has a set that is wanted everywhere; b and the originator know of each other."""
    a, b = await w.node("a"), await w.node("b", **of_b)
    view = await create_set(a, ALICE, "nr", {"f": os.urandom(300_000)}, replicas=-1)
    await w.gossip()
    return a, b, a.shelf.known[view.id]


def entry(node, other):
    return node.directory.node(other.id)


async def asked(node, progress=None):
    return await replicate.replicate(node, ALICE, NR, None, (), progress is not None, 0.2, progress)


def test_a_transfer_that_failed_is_told_as_failed_with_its_reason_and_not_as_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(receive, "ROUNDS", 1)
    monkeypatch.setattr(receive, "PAUSE", 0.0)

    async def broken(*_):
        raise IntegrityFailed("the bytes are not right")

    async def story():
        async with world(tmp_path) as w:
            a, b, known = await nodes(w, methods=("direct",))
            b.direct.fetch = broken
            a.consents.give(b.id, known.record.content)
            source = Peer(node_id=a.id, domains=a.identity.domains)
            assert (await offer.consider(b, source, await offer.make(a, known))).answer == "OK"
            await until(lambda: known.record.id not in b.transfers)
            await w.gossip()
            assert (await drive.offer_to(a, known, entry(a, b))).code == "failed"
            reports = []
            (item,) = [one for one in (await asked(a, reports.append)).items if one.node == "b"]
            assert item.state == "FAILED"
            assert item.reason == "the transfer failed: the bytes are not right"
            assert [one.state for one in reports[-1].nodes] == ["FAILED"]

    asyncio.run(story())


def test_a_node_that_was_not_reached_has_not_refused(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, known = await nodes(w)

            def silent(_node, method):
                if method == "offer.consider":
                    raise PeerUnreachable("no answer")

            a.link.before = silent
            await drive.offer_to(a, known, entry(a, b))
            (item,) = [one for one in (await asked(a)).items if one.node == "b"]
            assert (item.state, item.reason) == ("FAILED", "not reached: no answer")

    asyncio.run(story())


def test_who_asks_for_copies_everywhere_is_told_which_nodes_do_not_match_and_why(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, _, known = await nodes(w)
            await w.node("c")
            await w.gossip()
            full = "set side: needs 48.0 GiB of disk, 12.0 GiB free"
            a.matchmaker.judge = lambda _set, node: full if node["Name"] == "b" else ""
            found = await asked(a)
            assert [(one.node, one.reasons) for one in found.unmatched] == [("b", [full])]
            enough = await replicate.replicate(a, ALICE, NR, 1, (), False, 0.0, None)
            assert enough.unmatched == []
            too_many = await replicate.replicate(a, ALICE, NR, 2, (), False, 0.0, None)
            assert [one.node for one in too_many.unmatched] == ["b"]
            assert known.record.id in a.shelf.known

    asyncio.run(story())

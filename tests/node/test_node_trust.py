"""What a node says of itself counts for nothing where it may not hold the set at all."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from cached.errors import CachedError, Forbidden
from cached.node import announce, drive, metadata, replicate, revise
from cached.node.meeting import Meeting
from cached.peers.records import Holding
from cached.sets.names import parse_ref
from tests.node.fakes import caller, create_set, world

ALICE = caller("alice@physics.edu")
REF = parse_ref("alice@physics.edu:nr")
FILES = {"f": b"some bytes"}


async def lied_to(w, share):
    """A set on node a, and a node of another domain that says that it holds it."""
    a, liar = await w.node("a", domain="physics.edu"), await w.node("liar", domain="biology.edu")
    view = await create_set(a, ALICE, "nr", FILES, replicas=0, share=share)
    lie = Holding(set_id=view.id, revision=1, content=view.content, state="COMMITTED")
    contents = announce.contents(liar)
    liar.directory.publish(msgspec.structs.replace(contents, replicas=(lie,)))
    return a, liar, a.shelf.known[view.id]


@pytest.mark.parametrize(("share", "believed"), [("private", False), ("group:lab", False), ("public", True)])
def test_a_node_that_may_not_hold_a_set_is_no_holder_whatever_it_says(tmp_path, share, believed):
    async def story():
        async with world(tmp_path) as w:
            a, liar, known = await lied_to(w, share)
            holders = Meeting(node=a, set_id=known.record.id)
            assert (liar.id in metadata._holders(a, known)) is believed
            assert (liar.id in {entry.record.id for entry, _ in holders._candidates()}) is believed
            states = {
                one.node_id: one.state for one in await drive._candidates(a, known, a.directory.nodes())
            }
            assert (states[liar.id] == "COMMITTED") is believed
            assert announce.held_elsewhere(a, known.record.id) is believed

    asyncio.run(story())


def test_a_node_that_may_not_hold_a_set_never_drives_it_and_is_not_told_who_refused_it(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, liar, known = await lied_to(w, "private")
            orphan = known.record
            assert drive.drives(a, known)
            body = {"set": orphan.id}
            with pytest.raises(Forbidden):
                await liar.link.call(a.id, "drive.refusals", body)
            with pytest.raises(CachedError):
                await liar.link.call(a.id, "drive.refusals", {"set": "00" * 16})
            c = await w.node("c", domain="physics.edu")
            assert await c.link.call(a.id, "drive.refusals", body) == {
                "refusals": {},
                "failed": [],
            }
            assert await replicate._refusals(a, known) == {}

    asyncio.run(story())


def test_a_set_that_is_public_no_more_goes_to_nobody_who_was_not_asked_again(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, liar, known = await lied_to(w, "public")
            a.consents.give(liar.id, known.record.content)
            await revise.update(a, ALICE, REF, {"replicas": 1})
            assert a.consents.allowed(liar.id, known.record.content)
            await revise.update(a, ALICE, REF, {"share": "private"})
            assert not a.consents.allowed(liar.id, known.record.content)

    asyncio.run(story())

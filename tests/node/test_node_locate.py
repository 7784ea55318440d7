"""Locate: a ranking of nodes for some sets, and for a job."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from cached.errors import BadExpression, NotFound, UsageError
from cached.matchmaker.pool import Matchmaker
from cached.node import locate, offer
from cached.peers.records import Peer
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
BIG, SMALL = {"f": b"x" * 5000}, {"g": b"y" * 10}


def test_without_a_job_a_node_matches_what_it_has(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            await create_set(a, ALICE, "big", BIG)
            await create_set(b, ALICE, "small", SMALL)
            await w.gossip()
            found = (await locate.locate(a, ALICE, ["big", "small"], None)).items
            assert [(one.node, one.bytes_present, one.bytes_wanted) for one in found] == [
                ("a", 5000, 5010),
                ("b", 10, 5010),
            ]
            with pytest.raises(NotFound):
                await locate.locate(a, ALICE, ["big", "nothing"], None)
            with pytest.raises(UsageError):
                await locate.locate(a, ALICE, [], None)

    asyncio.run(story())


def test_a_node_with_some_of_the_sets_is_not_absent(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            await w.node("c")
            await create_set(a, ALICE, "big", BIG)
            await create_set(b, ALICE, "small", SMALL)
            await w.gossip()
            found = (await locate.locate(a, ALICE, ["big", "small"], None)).items
            assert {one.node: one.state for one in found} == {
                "a": "COMMITTED",
                "b": "COMMITTED",
                "c": "ABSENT",
            }
            assert {one.lease_seconds_left for one in found} == {None}

    asyncio.run(story())


def promised(reply):
    return (
        {one.node: one.estimate_seconds is not None for one in reply.items},
        [one.available for one in reply.sets],
    )


def test_a_set_that_no_live_node_holds_whole_is_promised_to_nobody(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, c = [await w.node(name) for name in "abc"]
            view = await create_set(a, ALICE, "big", BIG, replicas=0)
            await w.gossip()
            assert promised(await locate.locate(b, ALICE, ["big"], None)) == (
                {"a": True, "b": True, "c": True},
                ["whole"],
            )
            coming = asyncio.Event()

            async def some(job, *_more):
                job.progress.state, job.progress.bytes_present = "transferring", 2000
                await coming.wait()

            c.direct.fetch = some
            a.consents.give(c.id, view.content)
            source = Peer(node_id=a.id, domains=a.identity.domains)
            proposed = await offer.make(a, a.shelf.known[view.id])
            await offer.consider(c, source, msgspec.structs.replace(proposed, content=b""))
            await until(lambda: c.transfers[view.id].progress.bytes_present)
            await w.gossip()
            w.down.add("a")
            assert promised(await locate.locate(b, ALICE, ["big"], None)) == (
                {"b": False, "c": False},
                ["partial"],
            )
            w.down.add("c")
            assert promised(await locate.locate(b, ALICE, ["big"], None)) == ({"b": False}, ["none"])

    asyncio.run(story())


@pytest.fixture
def judged(tmp_path):
    """Locate a set with a job ad, by a real matchmaker; return which nodes match."""

    def judge(job_ad):
        async def story():
            matchmaker = Matchmaker()
            try:
                async with world(tmp_path) as w:
                    nodes = {name: await w.node(name) for name in "ab"}
                    for node in nodes.values():
                        node.matchmaker = matchmaker
                    await create_set(nodes["a"], ALICE, "big", BIG)
                    await w.gossip()
                    found = (await locate.locate(nodes["a"], ALICE, ["big"], job_ad)).items
                    return {one.node: one.matches for one in found}
            finally:
                await matchmaker.close()

        return asyncio.run(story())

    return judge


@pytest.mark.parametrize(
    ("job_ad", "matching"),
    [
        ('[Requirements = TARGET.Name == "b"]', "b"),
        ("[Requirements = TARGET.DetectedCpus >= MY.RequestCpus; RequestCpus = 1000]", ""),
        ('Requirements = Wanted\nWanted = TARGET.Name == "a"\nBroken = 1 1', "a"),
        ("RequestMemory = 1", "ab"),
        ("", "ab"),
    ],
)
def test_a_job_runs_where_its_requirements_hold(judged, job_ad, matching):
    assert judged(job_ad) == {name: name in matching for name in "ab"}


@pytest.mark.parametrize("job_ad", ["[Requirements = 1 1]", "nonsense", "Requirements = Odd\nOdd = 1 1", "["])
def test_a_job_ad_that_cannot_be_read_is_refused(judged, job_ad):
    with pytest.raises(BadExpression):
        judged(job_ad)

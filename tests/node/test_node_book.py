"""The book of records: the newest wins whatever the order, a tombstone always, and a set never changes what it is."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest
from cached.errors import CachedError, Forbidden, IntegrityFailed, NotFound
from cached.node import book, create, offer, retire, revise
from cached.peers.records import Peer, digest
from cached.sets.names import parse_ref
from cached.sets.set import newer
from hypothesis import given
from hypothesis import strategies as st
from tests.node.fakes import DAY, caller, create_set, known_set, signed_by, until, world

ALICE = caller("alice")
FILES = {"f": b"bytes"}


def test_the_newest_revision_wins_in_whatever_order_it_is_heard(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            first = a.shelf.known[view.id].signed
            second = signed_by(a, first, revision=2, share="public")
            other = signed_by(a, first, revision=2, share="group:lab")
            gone = signed_by(a, first, revision=2, status="deleted")
            later = signed_by(a, first, revision=3, replicas=7)
            for number, order in enumerate(itertools.permutations([first, second, other, later])):
                hearer = await w.node(f"h{number}")
                for signed in order:
                    await book.learn(hearer, signed)
                best = max(
                    [first, second, other, later], key=lambda one: (one.record().revision, one.payload)
                )
                known = hearer.shelf.known[view.id]
                assert known.signed.payload == best.payload
                assert w.books[f"h{number}"].known()[view.id] == (3, digest(best))
                await book.learn(hearer, gone)
                await book.learn(hearer, signed_by(a, first, revision=9))
                assert hearer.shelf.known[view.id].record.status == "deleted", "deleted stays deleted"
                if number == 5:
                    break

    asyncio.run(story())


@given(
    revisions=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(("live", "withdrawn", "deleted")), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    order=st.randoms(use_true_random=False),
)
def test_which_record_holds_depends_on_the_records_alone(revisions, order):
    record = known_set(1).record
    signed = [
        msgspec.structs.replace(
            known_set(1).signed,
            payload=msgspec.json.encode(
                msgspec.structs.replace(record, revision=revision, status=status, replicas=replicas)
            ),
        )
        for revision, status, replicas in revisions
    ]
    shuffled = list(signed)
    order.shuffle(shuffled)

    def winner(records):
        best = records[0]
        for one in records[1:]:
            best = newer(best, one)
        return best.payload

    assert winner(signed) == winner(shuffled) == winner(signed[::-1])


def test_a_record_with_another_content_or_owner_is_refused(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            first = a.shelf.known[view.id].signed
            await book.learn(b, first)
            for changes in ({"content": "0" * 64}, {"owner": "mallory"}):
                with pytest.raises(IntegrityFailed):
                    await book.learn(b, signed_by(a, first, revision=9, **changes))
                with pytest.raises(NotFound):
                    await book.learn(b, signed_by(a, first, revision=9, **changes), verified=True)
                await w.books["b"].take([signed_by(a, first, revision=9, **changes)], a.id)
            assert b.shelf.known[view.id].signed.payload == first.payload
            assert b.counters.snapshot()["record.refused"] == 2

    asyncio.run(story())


def test_nobody_can_take_the_id_of_a_set_of_another_domain_before_it_is_known(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, liar = await w.node("a", domain="physics.edu"), await w.node("liar", domain="biology.edu")
            b = await w.node("b", domain="physics.edu")
            view = await create_set(a, caller("alice@physics.edu"), "nr", FILES, replicas=0)
            first = a.shelf.known[view.id].signed
            for changes in ({}, {"content": "0" * 64}, {"status": "deleted"}):
                squatting = signed_by(liar, first, owner="mallory@biology.edu", revision=9, **changes)
                with pytest.raises(IntegrityFailed):
                    await book.learn(b, squatting)
            assert (await book.learn(b, first)).record.owner == "alice@physics.edu"

    asyncio.run(story())


def test_a_forged_record_and_a_name_that_breaks_the_rules_are_refused(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            first = a.shelf.known[view.id].signed
            forged = msgspec.structs.replace(first, payload=first.payload.replace(b'"nr"', b'"xx"'))
            with pytest.raises(IntegrityFailed):
                await book.learn(b, forged)
            with pytest.raises(CachedError):
                await book.learn(b, signed_by(a, first, name="../../etc"))
            assert b.shelf.known == {}

    asyncio.run(story())


def test_a_node_speaks_for_the_users_of_its_domains_only(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a", domain="physics.edu"), await w.node("b", domain="biology.edu")
            view = await create_set(a, caller("alice@physics.edu"), "nr", FILES, replicas=0)
            await w.gossip()
            assert view.id in b.shelf.known
            admin = caller("root", admin=True)
            with pytest.raises(Forbidden):
                await revise.delete(b, admin, parse_ref("alice@physics.edu:nr"), True, False)
            with pytest.raises(Forbidden):
                await create.begin(b, caller("alice@physics.edu"), "mine", create.wire.CreateOptions(), 1, 1)
            stolen = signed_by(b, a.shelf.known[view.id].signed, revision=2, share="public")
            with pytest.raises(Forbidden):
                await book.learn(a, stolen)
            assert a.shelf.known[view.id].record.revision == 1
            peer = Peer(node_id=b.id, domains=b.identity.domains)
            with pytest.raises(Forbidden):
                await offer.requested(a, peer, view.id, {})
            with pytest.raises(Forbidden):
                await revise.serve_extend(a, peer, a.shelf.known[view.id].signed, 10 * DAY)

    asyncio.run(story())


def test_the_sets_lease_never_gets_shorter_by_a_revision(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, lease_seconds=1000, replicas=0)
            await w.gossip()
            first = b.shelf.known[view.id].signed
            await book.learn(b, signed_by(a, first, revision=2, lease_seconds=10))
            assert b.left(b.shelf.known[view.id].lease) == 1000
            w.clock.pass_(100)
            await book.learn(b, signed_by(a, first, revision=3, lease_seconds=2000))
            assert b.left(b.shelf.known[view.id].lease) == 2000
            (passed,) = w.books["b"].give([view.id])
            w.clock.pass_(50)
            assert w.books["b"].give([view.id])[0].age_seconds == passed.age_seconds + 50

    asyncio.run(story())


def test_a_tombstone_takes_the_replica_away_and_is_remembered_longer_than_any_lease(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            signed = a.shelf.known[view.id].signed
            await book.learn(a, signed_by(a, signed, revision=2, status="deleted"))
            await until(lambda: view.id not in a.shelf.replicas)
            assert a.stores["disk"].list_contents() == []
            assert a.left(a.shelf.known[view.id].lease) == 60 * DAY
            assert view.id in a.directory.published.tombstones

    asyncio.run(story())


def test_what_is_deleted_while_it_is_offered_is_not_accepted(tmp_path):
    """The record is learned, the matching takes its time, the tombstone overtakes it."""

    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            view = await create_set(a, ALICE, "nr", FILES, replicas=0)
            proposed = await offer.make(a, a.shelf.known[view.id])
            tombstone = signed_by(a, proposed.record, revision=2, status="deleted")
            matching = b.matchmaker.match

            async def slow(pairs):
                await book.learn(b, tombstone)
                return await matching(pairs)

            b.matchmaker.match = slow
            answer = await offer.consider(b, Peer(node_id=a.id, domains=a.identity.domains), proposed)
            assert answer.answer == "REJECTED"
            assert b.shelf.known[view.id].record.status == "deleted"
            assert b.shelf.replicas == {}
            assert b.catalog.read_now(lambda tx: tx.set(view.id)).status == "deleted"

    asyncio.run(story())


def test_giving_up_what_is_not_here_changes_nothing(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a = await w.node("a")
            assert await retire.give_up(a, "0" * 32) == 0

    asyncio.run(story())

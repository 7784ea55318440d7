"""Which set a name stands for, and for whom: a stranger never learns anything."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from cached.catalog.rows import ReplicaRow
from cached.errors import AmbiguousName, CachedError, Forbidden, NotFound
from cached.leases import deadline
from cached.node import access
from cached.node.shelf import Changes, Known, Shelf
from cached.sets.names import SetRef, parse_ref
from hypothesis import example, given
from hypothesis import strategies as st
from tests.node.doubles import FakeClock
from tests.node.fakes import caller, known_set

NOW = FakeClock().now()
USERS = ("alice", "bob", "carol")
NAMES = ("nr", "hg38")


def shelf_of(*sets: Known, held: tuple[int, ...] = (), state="COMMITTED") -> Shelf:
    shelf = Shelf(catalog=None)  # type: ignore[arg-type]
    rows = [
        ReplicaRow(
            set_id=f"{number:032x}",
            content=f"{number:064x}",
            tier="disk",
            state=state,
            grant=deadline.after(NOW, 60),
            granted_seconds=60,
            bytes=1,
            owner="x",
            created_wall=0.0,
        )
        for number in held
    ]
    shelf._apply(Changes(sets=sets, replicas=tuple(rows)))
    return shelf


sets = st.builds(
    known_set,
    st.integers(0, 2**128 - 1),
    owner=st.sampled_from(USERS),
    name=st.sampled_from(NAMES),
    share=st.sampled_from(("private", "public", "group:lab")),
    status=st.sampled_from(("live", "withdrawn", "deleted")),
    node=st.sampled_from(("n1", "n2")),
)


@st.composite
def shelves(draw):
    chosen = {known.record.id: known for known in draw(st.lists(sets, max_size=8))}
    shelf = shelf_of(*chosen.values())
    for set_id in draw(st.sets(st.sampled_from(sorted(chosen)))) if chosen else ():
        number = int(set_id, 16)
        shelf._apply(Changes(replicas=tuple(shelf_of(held=(number,)).replicas.values())))
    elsewhere = draw(st.sets(st.sampled_from(sorted(chosen)))) if chosen else set()
    shelf.held_elsewhere = elsewhere.__contains__
    return shelf


def references(shelf):
    ids = [f"id:{set_id[:8]}" for set_id in shelf.known] + [f"id:{set_id}" for set_id in shelf.known]
    owners = [f"{owner}:{name}" for owner in USERS for name in NAMES]
    nodes = [f"{name}@{node}" for name in NAMES for node in ("n1", "n2.site")]
    return [parse_ref(text) for text in [*NAMES, *owners, *nodes, *ids]]


def outcome(shelf, who, ref):
    try:
        return access.resolve(shelf, who, ref)
    except CachedError as error:
        return (type(error), error.message, error.hint, error.details)


@given(shelf=shelves(), in_lab=st.booleans())
def test_a_stranger_learns_nothing_about_what_is_not_shared(shelf, in_lab):
    """What a caller may not see might as well not exist: every answer is that of a shelf without it."""
    who = caller("mallory", *(["lab"] if in_lab else []))
    visible = [known for known in shelf.known.values() if access.may_read(who, known.record)]
    bare = shelf_of(*visible)
    bare.replicas, bare.held_elsewhere = shelf.replicas, shelf.held_elsewhere
    for known in shelf.known.values():
        shared = known.record.share == "public" or (in_lab and known.record.share == "group:lab")
        assert (known in visible) == shared
    for ref in references(shelf):
        assert outcome(shelf, who, ref) == outcome(bare, who, ref)


@given(shelf=shelves(), user=st.sampled_from(USERS), admin=st.booleans())
def test_what_is_found_may_be_seen_is_there_and_answers_to_the_reference(shelf, user, admin):
    who = caller(user, admin=admin)
    for ref in references(shelf):
        found = outcome(shelf, who, ref)
        if isinstance(found, Known):
            record = found.record
            assert access.may_see(who, record)
            assert record.status != "deleted"
            assert ref.name in (None, record.name)
            assert ref.owner in (None, record.owner)
            mine = [
                known
                for known in access._candidates(shelf, ref)
                if known.record.owner == user and access.offered(shelf, known)
            ]
            assert not mine or record.owner == user, "one's own set comes first"
        elif found[0] is AmbiguousName:
            assert len(found[3]["candidates"]) > 1
            for one in found[3]["candidates"]:
                assert access.may_see(who, shelf.known[one["id"]].record)
        else:
            assert found[0] is NotFound


@given(shelf=shelves(), user=st.sampled_from(USERS))
def test_a_deleted_set_is_found_by_nobody_but_the_process_that_has_it_open(shelf, user):
    who = caller(user)
    for known in shelf.known.values():
        if known.record.status != "deleted" or not access.may_read(who, known.record):
            continue
        ref = SetRef(id_prefix=known.record.id)
        with pytest.raises(NotFound):
            access.resolve(shelf, who, ref)
        assert access.resolve(shelf, who, ref, kept=lambda _: True) == known
        stranger = caller("mallory")
        if known.record.share == "private":
            with pytest.raises(NotFound):
                access.resolve(shelf, stranger, ref, kept=lambda _: True)


def test_a_bare_name_is_ones_own_set_and_then_a_shared_one():
    mine, shared = known_set(1, owner="bob"), known_set(2, owner="alice", share="public")
    assert access.resolve(shelf_of(mine, shared), caller("bob"), parse_ref("nr")) == mine
    assert access.resolve(shelf_of(mine, shared), caller("bob"), parse_ref("alice:nr")) == shared
    assert access.resolve(shelf_of(shared), caller("bob"), parse_ref("nr")) == shared


def test_a_live_set_comes_before_a_withdrawn_one_of_the_same_owner():
    old, new = known_set(1, status="withdrawn"), known_set(2)
    shelf = shelf_of(old, new, held=(1,))
    assert access.resolve(shelf, caller("alice"), parse_ref("nr")) == new


def test_a_withdrawn_set_is_there_while_a_replica_is_here_or_elsewhere():
    old = known_set(1, status="withdrawn")
    who, ref = caller("alice"), parse_ref("nr")
    with pytest.raises(NotFound):
        access.resolve(shelf_of(old), who, ref)
    assert access.resolve(shelf_of(old, held=(1,)), who, ref) == old
    with pytest.raises(NotFound):
        access.resolve(shelf_of(old, held=(1,), state="GOING"), who, ref)
    shelf = shelf_of(old)
    shelf.held_elsewhere = lambda set_id: set_id == old.record.id
    assert access.resolve(shelf, who, ref) == old


def test_two_shared_sets_of_one_name_are_ambiguous_and_a_node_tells_them_apart():
    first = known_set(1, owner="alice", share="public", node="n1")
    second = known_set(2, owner="carol", share="public", node="n2")
    shelf = shelf_of(first, second)
    with pytest.raises(AmbiguousName) as caught:
        access.resolve(shelf, caller("bob"), parse_ref("nr"))
    assert {one["name"] for one in caught.value.details["candidates"]} == {"alice:nr@n1", "carol:nr@n2"}
    for node, expected in (("n1", first), ("n2.site", second)):
        assert access.resolve(shelf, caller("bob"), parse_ref(f"nr@{node}")) == expected


def test_administrators_manage_what_they_may_not_read():
    known, admin = known_set(1), caller("root", admin=True)
    access.check_manage(admin, known, "delete")
    with pytest.raises(Forbidden):
        access.check_read(admin, known)


def test_those_shared_with_read_and_do_not_manage():
    known, member = known_set(1, share="group:lab"), caller("bob", "lab")
    access.check_read(member, known)
    with pytest.raises(Forbidden) as caught:
        access.check_manage(member, known, "delete")
    assert "alice" in caught.value.message
    for share in ("group:other", "private", "group:"):
        other = dataclasses.replace(known, record=known_set(1, share=share).record)
        with pytest.raises(Forbidden):
            access.check_read(member, other)


REFS = ("nr", "alice:nr", "nr@n1", f"id:{7:032x}")


#: Few ids, so that some are revisions of others.
few_sets = st.builds(
    known_set,
    st.integers(5, 8),
    owner=st.sampled_from(USERS),
    share=st.sampled_from(("private", "public", "group:lab")),
    status=st.sampled_from(("live", "withdrawn", "deleted")),
)


@example([known_set(5, owner="bob", share="public"), known_set(6, status="withdrawn"), "elsewhere"])
@given(st.lists(st.one_of(few_sets, few_sets, st.just("elsewhere")), max_size=8))
def test_what_is_remembered_of_a_name_is_never_other_than_what_would_be_decided_anew(steps):
    shelf, decisions, away = shelf_of(), access.Decisions(), set()
    shelf.held_elsewhere = away.__contains__
    callers = (caller("alice"), caller("bob", "lab"), caller("root", admin=True))

    def remembered(who, ref):
        return decisions.readable(shelf, who, ref, lambda _: False)

    def anew(who, ref):
        found = access.resolve(shelf, who, ref)
        access.check_read(who, found)
        return found

    for step in steps:
        if isinstance(step, Known):
            shelf._apply(Changes(sets=(step,)))
        else:
            away ^= set(shelf.known)
        for who, ref in itertools.product(callers, map(parse_ref, REFS)):
            wanted = decided(anew, who, ref)
            assert [decided(remembered, who, ref) for _ in range(2)] == [wanted, wanted]


def decided(decide, who, ref):
    try:
        return decide(who, ref).record
    except CachedError as error:
        return error.code, error.message

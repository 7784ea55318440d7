from __future__ import annotations

import hashlib

import pytest
from cached.peers import setsync
from cached.peers.advertise import address_of, interface_address
from cached.peers.members import Members
from cached.peers.naming import free_name, yields
from cached.peers.records import Beat, Holding, NodeRecord, Peer, SignedNode
from cached.peers.route import LONGEST_WAIT, Route, join_address, split_address
from hypothesis import given
from hypothesis import strategies as st

IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
MARKS = st.dictionaries(IDS, st.tuples(st.integers(1, 3), st.integers(0, 1)), max_size=30)
BOOKS = MARKS.map(
    lambda marks: {
        one: (revision, hashlib.sha256(f"{one} {revision} {content}".encode()).hexdigest()[:16])
        for one, (revision, content) in marks.items()
    }
)


def merge(book, other, ids):
    """Take records as `newer` does: the same choice wherever it is made."""
    for one in ids:
        book[one] = max(book.get(one, (0, "")), other[one])


@given(BOOKS, BOOKS)
def test_one_exchange_makes_two_books_equal(left, right):
    groups = setsync.differing(setsync.summary(right), setsync.summary(left))
    give, want = setsync.exchange(left, setsync.listing(right, groups), groups)
    before = dict(left)
    merge(left, right, want)
    merge(right, before, give)
    assert left == right
    assert setsync.differing(setsync.summary(left), setsync.summary(right)) == []


@given(st.lists(st.sampled_from(["failed", "alive", "later"])))
def test_a_node_is_never_left_alone_for_longer_than_half_a_minute(steps):
    route, now = Route(address="a:1"), 100.0
    for step in steps:
        if step == "failed":
            route.failed(now)
        elif step == "alive":
            route.alive()
            assert route.wait(now) == 0
        else:
            now += 1.0
        assert 0 <= route.wait(now) <= LONGEST_WAIT


def test_waits_double_and_a_new_address_is_tried_at_once():
    route, now, waits = Route(address="a:1"), 0.0, []
    for _ in range(4):
        route.failed(now)
        waits.append(route.wait(now))
        now = route.retry_at
    assert waits == [0.5, 1.0, 2.0, 4.0]
    route.moved("a:1")
    route.failed(now)
    assert route.wait(now) > 0
    route.moved("b:1")
    assert route.wait(now) == 0


@pytest.mark.parametrize("address", ["10.0.0.1:7400", "[::1]:0", "host.example:65535", ":7400"])
def test_addresses_split_and_join(address):
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize("address", ["host", "host:", "host:x", "host:65536", "host:-1", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="not host:port"):
        split_address(address)


def test_the_advertised_address_follows_the_configuration():
    assert address_of("", "127.0.0.1:0", 5, []) == "127.0.0.1:5"
    assert address_of("", "192.0.2.1:0", 5, []) == "192.0.2.1:5"
    assert address_of("", "0.0.0.0:0", 5, ["127.0.0.1:7400"]) == "127.0.0.1:5"
    assert address_of("", "0.0.0.0:0", 5, ["nonsense", "127.0.0.1:7400"]) == "127.0.0.1:5"
    assert address_of("lo", "0.0.0.0:0", 5, []) == "127.0.0.1:5"
    assert address_of("node7.example", "0.0.0.0:0", 5, []) == "node7.example:5"
    assert address_of("192.0.2.1:9", "0.0.0.0:0", 5, []) == "192.0.2.1:9"
    assert address_of("2001:db8::1", "0.0.0.0:0", 5, []) == "[2001:db8::1]:5"
    assert address_of("", "0.0.0.0:0", 5, []).endswith(":5")
    assert interface_address("no-such-if") == ""


@given(st.text("01", min_size=40, max_size=40), st.text("01", min_size=40, max_size=40), st.floats(-9, 9))
def test_of_two_with_one_name_one_yields_however_they_measure(one, two, lead):
    if one == two:
        return
    first = yields(one, two, rival_lead=lead, same_start=5.0, rounds=9)
    second = yields(two, one, rival_lead=-lead + 0.5, same_start=5.0, rounds=9)
    assert first != second


def test_a_free_name_takes_as_many_digits_as_it_needs():
    assert free_name("box", "abcdef", set()) == "box-abcd"
    assert free_name("box", "abcdef", {"box-abcd"}) == "box-abcde"


def member(version=1, incarnation=1, age=0.0):
    record = NodeRecord(id="n", name="n", address="a:1", incarnation=incarnation, version=version)
    signed = SignedNode(payload=b"", certificate=b"", signature=b"", age_seconds=age)
    return signed, record, Peer(node_id="n", domains=frozenset())


def beat(number, *, incarnation=1, left=False):
    return Beat(node_id="n", incarnation=incarnation, beat=number, left=left, signature=b"")


def test_a_node_lives_by_its_beats_and_not_by_what_others_repeat():
    members = Members("me")
    assert members.put(*member(), 0.0)
    assert not members.alive("n", 0.0)
    members.put_beat(beat(5), 0.0, 0.0)
    assert members.alive("n", 9.0)
    assert not members.put_beat(beat(5), 0.0, 9.0)
    assert not members.alive("n", 11.0)
    members.put_beat(beat(6), 30.0, 11.0)
    assert not members.alive("n", 11.0), "a beat that was long on its way is no sign of life"
    assert members.put_beat(beat(7), 0.0, 12.0)
    assert members.put_beat(beat(8, left=True), 0.0, 12.5)
    assert not members.alive("n", 12.5)


def test_an_older_incarnation_never_replaces_a_newer_one():
    members = Members("me")
    members.put(*member(version=1, incarnation=2), 0.0)
    assert not members.put(*member(version=9, incarnation=1), 0.0)
    assert not members.put_beat(beat(9, incarnation=1), 0.0, 0.0)
    assert members.put(*member(version=1, incarnation=3), 0.0)
    assert members.put_beat(beat(1, incarnation=3), 0.0, 0.0)


def test_a_node_not_heard_of_for_a_day_is_forgotten():
    members = Members("me")
    members.put(*member(), 0.0)
    members.put_beat(beat(1), 0.0, 0.0)
    members.forget(86000.0)
    assert "n" in members
    members.forget(86401.0)
    assert "n" not in members


def test_two_digests_show_what_each_side_lacks():
    members = Members("me")
    members.put(*member(version=2), 0.0)
    members.put_beat(beat(5), 0.0, 0.0)
    found = members.compare(("me", 1, 1, 1), [("you", 1, 1, 1), ("n", 1, 1, 9)])
    assert found.give_nodes == ["me", "n"]
    assert found.give_beats == ["me"]
    assert found.want_nodes == ["you"]
    assert found.want_beats == ["you", "n"]


def record_of(node_id: str, version: int, held: dict[str, str]) -> NodeRecord:
    replicas = tuple(Holding(set_id=one, revision=1, content=one, state=state) for one, state in held.items())
    return NodeRecord(
        id=node_id, name=node_id, address="a:1", incarnation=1, version=version, replicas=replicas
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.one_of(
                st.none(),
                st.dictionaries(st.sampled_from("xyz"), st.sampled_from(["COMMITTED", "TRANSFERRING"])),
            ),
        )
    )
)
def test_who_tells_of_a_set_is_known_and_the_set_s_mark_changes_with_it(steps):
    members, told = Members("own"), {}
    for version, (node_id, held) in enumerate(steps):
        before = {one: (told_of(told, one), members.mark(one)) for one in "xyz"}
        if held is None:
            members.drop([node_id])
            told.pop(node_id, None)
        else:
            record = record_of(node_id, version, held)
            signed = SignedNode(payload=b"", certificate=b"", signature=b"")
            assert members.put(signed, record, Peer(node_id=node_id, domains=frozenset()), 0.0)
            told[node_id] = held
        for one in "xyz":
            assert set(members.holding(one)) == set(told_of(told, one))
            assert {member.record.id for member in members if one in member.holdings} == set(
                members.holding(one)
            )
            then, mark = before[one]
            assert (then == told_of(told, one)) or mark != members.mark(one)


def told_of(told: dict[str, dict[str, str]], set_id: str) -> dict[str, str]:
    return {node_id: held[set_id] for node_id, held in told.items() if set_id in held}

"""Who gets a copy next, and who sees to it."""

from __future__ import annotations

import pytest
from cached.replication import method
from cached.replication.placement import Candidate, choose, driver, givers, missing, rendezvous
from cached.sets.set import ALL, SetRecord
from hypothesis import given
from hypothesis import strategies as st


def record(replicas: int = ALL, **changes) -> SetRecord:
    fields = {"id": "5e7", "name": "nr", "owner": "ada", "content": "c", "bytes": 100, "files": 1}
    return SetRecord(**{**fields, "originator": "o", "lease_seconds": 60, "replicas": replicas, **changes})


def node(node_id: str, **changes) -> Candidate:
    return Candidate(**{"node_id": node_id, "host": node_id, "alive": True, "matches": True, **changes})


_candidates = st.lists(
    st.builds(
        Candidate,
        node_id=st.text("abcdefgh", min_size=1, max_size=3),
        host=st.sampled_from(["", "h1", "h2", "h3"]),
        alive=st.booleans(),
        matches=st.booleans(),
        state=st.sampled_from(["", "COMMITTED", "TRANSFERRING", "REQUESTED", "EXPIRED", "REJECTED", "GOING"]),
        durable=st.booleans(),
        originator=st.just(False),
        free_bytes=st.none() | st.integers(0, 200),
    ),
    max_size=12,
    unique_by=lambda one: one.node_id,
)


@given(_candidates, st.integers(ALL, 6), st.randoms(use_true_random=False))
def test_the_choice_is_the_same_for_all_and_never_too_many(candidates, replicas, random):
    wanted, chosen = missing(record(replicas), candidates), choose(record(replicas), candidates)
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert choose(record(replicas), shuffled) == chosen
    assert len(set(chosen)) == len(chosen)
    assert wanted is None or len(chosen) <= wanted
    by_id = {one.node_id: one for one in candidates}
    for node_id in chosen:
        one = by_id[node_id]
        assert one.alive
        assert one.matches
        assert one.state in ("", "EXPIRED", "REJECTED")
        assert one.free_bytes is None or one.free_bytes >= 100


@given(_candidates, st.integers(0, 6))
def test_what_is_missing_is_offered_as_far_as_there_are_nodes(candidates, replicas):
    everyone = choose(record(ALL), candidates)
    some = choose(record(replicas), candidates)
    assert set(some) <= set(everyone)
    assert len(some) == min(missing(record(replicas), candidates), len(everyone))


@given(st.sets(st.text("abcdef0123456789", min_size=1), min_size=1), st.text("0123456789abcdef", min_size=1))
def test_a_node_that_goes_moves_nobody_else(nodes, set_id):
    order = rendezvous(set_id, nodes)
    for gone in nodes:
        assert rendezvous(set_id, nodes - {gone}) == [one for one in order if one != gone]


@given(st.sets(st.sampled_from("abcdefo")))
def test_exactly_one_holder_drives_and_it_is_the_originator_when_that_is_there(holders):
    drives = driver("5e7", "o", holders)
    assert drives in holders or (drives == "" and not holders)
    assert drives == "o" or "o" not in holders
    assert driver("5e7", "o", sorted(holders)) == drives


def test_different_sets_are_driven_by_different_nodes():
    nodes = [f"n{number}" for number in range(8)]
    assert len({driver(f"{number:032x}", "gone", nodes) for number in range(64)}) > 4


def test_copies_besides_the_originators_are_counted():
    there = [node("o", state="COMMITTED", originator=True), node("a", state="COMMITTED"), node("b")]
    assert missing(record(1), there) == 0
    assert choose(record(2), there) == ["b"]
    assert choose(record(0), there) == []


def test_a_dead_or_expired_or_volatile_copy_is_replaced_and_one_on_its_way_is_not():
    for lost in ({"alive": False}, {"state": "GOING"}, {"durable": False}):
        assert choose(record(1), [node("a", **{"state": "COMMITTED", **lost}), node("b")]) == ["b"]
    assert missing(record(1), [node("a", state="EXPIRED"), node("b")]) == 1
    assert choose(record(1), [node("a", state="TRANSFERRING"), node("b")]) == []
    assert choose(record(1, tier="memory"), [node("a", state="COMMITTED", durable=False), node("b")]) == []


def test_different_hosts_are_preferred():
    nodes = [node("a1", host="a", state="COMMITTED"), node("a2", host="a"), node("b1", host="b")]
    nodes += [node("b2", host="b"), node("c1", host="c"), node("c2", host="c")]
    first, second, *rest = choose(record(5), nodes)
    assert {first[0], second[0]} == {"b", "c"}
    assert len(rest) == 2


def test_a_withdrawn_or_deleted_set_is_offered_to_nobody():
    for status in ("withdrawn", "deleted"):
        assert choose(record(3, status=status), [node("a")]) == []


BOTH = ("bittorrent", "direct")
BIG, SMALL = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("size", "receivers", "best"),
    [
        (SMALL, 8, "direct"),
        (8 << 20, 1000, "direct"),
        (BIG, 1, "direct"),
        (BIG, 2, "bittorrent"),
        (32 << 20, 4, "direct"),
        (32 << 20, 5, "bittorrent"),
        (16_000_000, 8, "direct"),
        (16 << 20, 9, "bittorrent"),
    ],
)
def test_what_is_little_for_the_source_goes_direct_and_else_several_share_it(size, receivers, best):
    assert method.choose(BOTH, BOTH, BOTH, size, receivers) == best


@given(*[st.lists(st.sampled_from(BOTH), unique=True)] * 3, st.integers(0, 2**40), st.integers(0, 50))
def test_a_method_is_used_only_when_all_three_allow_it_and_always_when_one_is_left(a, b, c, size, receivers):
    chosen, common = method.choose(a, b, c, size, receivers), set(a) & set(b) & set(c)
    assert chosen in common or (chosen == "" and not common)


def test_without_a_common_method_the_reason_names_who_allows_what():
    reason = method.refusal(("direct",), BOTH, ())
    assert "the set allows direct" in reason
    assert "the receiver allows none" in reason


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sampled_from("abcdefgh"), st.sampled_from("xyz"))
def test_the_originator_is_asked_last_and_nobody_is_left_out(holders, originator, asking):
    order = givers(asking, originator, holders)
    assert sorted(order) == sorted(holders)
    assert originator not in order[:-1]


def test_those_who_ask_are_spread_over_those_who_have_it():
    assert len({givers(f"node{number}", "a", "abcdefgh")[0] for number in range(40)}) == 7


def test_a_stream_is_left_for_the_swarm_when_others_come_while_much_is_to_come():
    assert method.worth_sharing(left=100 << 20, others=1)
    assert not method.worth_sharing(left=100 << 20, others=0)
    assert not method.worth_sharing(left=1 << 20, others=5)

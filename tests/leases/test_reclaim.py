"""What goes when space is wanted."""

from __future__ import annotations

import math

from cached.leases.reclaim import Candidate, choose
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

BASE = Candidate(
    content="c",
    set_ids=("s",),
    bytes=100,
    expired_seconds=3_600.0,
    pinned=False,
    other_holders=1,
    fetch_cost=100.0,
    last_read_seconds=7_200.0,
)


def candidate(content, **changes):
    return replace(BASE, content=content, **changes)


candidates = st.lists(
    st.builds(
        Candidate,
        content=st.uuids().map(str),
        set_ids=st.just(("s",)),
        bytes=st.integers(0, 1_000),
        expired_seconds=st.floats(-1e6, 1e6),
        pinned=st.booleans(),
        other_holders=st.integers(0, 3),
        fetch_cost=st.floats(0, 1e9),
        last_read_seconds=st.one_of(st.floats(0, 1e6), st.just(math.inf)),
    ),
    max_size=12,
)


@given(found=candidates, wanted=st.integers(-5, 5_000), turn=st.randoms())
def test_only_expired_unpinned_contents_go_and_no_more_than_needed(found, wanted, turn):
    chosen = choose(found, wanted)
    assert all(c.expired_seconds > 0 and not c.pinned for c in chosen)
    assert len({c.content for c in chosen}) == len(chosen)
    total = sum(c.bytes for c in chosen)
    possible = sum(c.bytes for c in found if c.may_go())
    assert bool(chosen) == (0 < wanted <= possible)
    if chosen:
        assert total >= wanted
        assert all(total - c.bytes < wanted for c in chosen)
    assert chosen == sorted(chosen, key=Candidate.loss)
    turn.shuffle(found)
    assert choose(found, wanted) == chosen


def test_a_leased_content_stays_whatever_is_wanted():
    assert choose([candidate("a", expired_seconds=0.0), candidate("b", pinned=True)], 1) == []


def test_nothing_goes_when_all_of_it_would_not_be_enough():
    assert choose([candidate("a"), candidate("b")], 201) == []
    assert len(choose([candidate("a"), candidate("b")], 200)) == 2


def order(*found):
    return [c.content for c in choose(found, sum(c.bytes for c in found))]


def test_the_last_copy_goes_last():
    assert order(candidate("only", other_holders=0, expired_seconds=1e6), candidate("held")) == [
        "held",
        "only",
    ]


def test_what_was_long_unused_goes_first():
    recent = candidate("recent", last_read_seconds=10.0)
    assert order(recent, candidate("old", expired_seconds=90_000.0, last_read_seconds=math.inf)) == [
        "old",
        "recent",
    ]


def test_what_is_cheap_to_fetch_again_goes_first():
    assert order(candidate("dear", fetch_cost=1_000.0), candidate("cheap", fetch_cost=10.0)) == [
        "cheap",
        "dear",
    ]


def test_one_large_content_spares_many_small_ones():
    small = [
        candidate(f"s{n}", bytes=10, expired_seconds=9_000.0, last_read_seconds=9_000.0) for n in range(5)
    ]
    assert choose([*small, candidate("large", bytes=1_000)], 1_000) == [candidate("large", bytes=1_000)]

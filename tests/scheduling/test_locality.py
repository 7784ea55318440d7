"""The ranking of nodes for a job."""

from __future__ import annotations

from cached.scheduling.locality import Candidate, estimate_seconds, rank
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

_candidates = st.builds(
    Candidate,
    node=st.text("abc", min_size=1, max_size=4),
    state=st.sampled_from(["", "COMMITTED", "TRANSFERRING", "EXPIRED"]),
    bytes_present=st.integers(0, 100),
    bytes_wanted=st.just(100),
    lease_seconds_left=st.none() | st.floats(0, 1e6),
    free_bytes=st.integers(0, 200),
    matches=st.booleans(),
)
_some = st.lists(_candidates, max_size=8, unique_by=lambda one: one.node)


def node(name: str, present: int, **changes) -> Candidate:
    fields = {"state": "COMMITTED", "bytes_wanted": 100, "free_bytes": 1000, "matches": True, **changes}
    return Candidate(node=name, bytes_present=present, **fields)


def names(candidates) -> list[str]:
    return [found.candidate.node for found in rank(candidates)]


@given(_some, st.randoms(use_true_random=False))
def test_the_order_is_total(candidates, random):
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert rank(shuffled) == rank(candidates)
    assert sorted(names(candidates)) == sorted(one.node for one in candidates)


@given(_some, st.data())
def test_getting_better_in_one_respect_never_lowers_a_node(candidates, data):
    if not candidates:
        return
    one = data.draw(st.sampled_from(candidates))
    better = data.draw(
        st.sampled_from(
            [
                replace(one, bytes_present=min(one.bytes_present + 1, 100)),
                replace(one, matches=True),
                replace(one, lease_seconds_left=(one.lease_seconds_left or 0) + 1),
                replace(one, free_bytes=one.free_bytes + 1),
            ]
        )
    )
    improved = [better if other is one else other for other in candidates]
    assert names(improved).index(one.node) <= names(candidates).index(one.node)


@given(_candidates)
def test_the_estimate_falls_with_every_byte_that_is_there(one):
    estimate = estimate_seconds(one)
    more = estimate_seconds(replace(one, bytes_present=min(one.bytes_present + 1, 100)))
    assert estimate is None or (more is not None and more <= estimate)
    assert estimate is None or estimate >= 0


def test_bytes_come_first_then_match_lease_and_space():
    ranked = names(
        [
            node("space", 50, lease_seconds_left=5, free_bytes=2000),
            node("none", 0),
            node("lease", 50, lease_seconds_left=9),
            node("all", 100, matches=False),
            node("nomatch", 50, matches=False, lease_seconds_left=99),
            node("plain", 50, lease_seconds_left=5),
        ]
    )
    assert ranked == ["all", "lease", "space", "plain", "nomatch", "none"]


def test_the_estimate_is_zero_for_who_has_it_and_nothing_for_who_cannot_get_it():
    assert estimate_seconds(node("a", 100, matches=False)) == 0
    assert estimate_seconds(node("a", 0, matches=False)) is None
    assert estimate_seconds(node("a", 0, free_bytes=99)) is None
    assert estimate_seconds(node("a", 50, obtainable=False)) is None
    assert estimate_seconds(node("a", 100, obtainable=False)) == 0
    assert estimate_seconds(node("a", 0, bandwidth_bytes_per_second=100)) == 1.05

"""Neighbours in a swarm are chosen once, and kept."""

from __future__ import annotations

from cached.replication import mesh, neighbours
from cached.replication.neighbours import Neighbours
from hypothesis import given
from hypothesis import strategies as st

IDS = [f"{number:040x}" for number in range(40)]
OWN = IDS[20]


def chosen(one: Neighbours, coming, *, done=(), silent=(), met=IDS, now=100.0) -> set[str]:
    coming = set(coming)
    there = coming | set(done)
    one.choose(coming=coming, told=there | set(silent), present=there & set(met), now=now)
    return one.chosen


def test_of_many_the_named_ones_are_neighbours_at_first_and_stay_afterwards():
    one = Neighbours(OWN)
    one.name([OWN, *IDS[:8]], 100.0)
    assert chosen(one, IDS) == set(IDS[:8])
    assert one.trusts_names(109.0)
    assert chosen(one, IDS, now=111.0) == set(IDS[:8])


def test_without_names_a_ring_is_chosen():
    assert chosen(Neighbours(OWN), IDS) == mesh.fellows(OWN, IDS)


def test_of_few_all_are_neighbours():
    one = Neighbours(OWN)
    assert chosen(one, IDS[:10]) == set(IDS[:10])
    assert chosen(one, [*IDS[:10], OWN, IDS[30]]) == {*IDS[:10], IDS[30]}


def test_neighbours_stay_done_or_not_until_few_are_left():
    one = Neighbours(OWN)
    first = set(chosen(one, IDS))
    gone = set(sorted(first)[: len(first) - neighbours.ENOUGH])
    left = [each for each in IDS if each not in gone]
    assert chosen(one, left, now=200.0) == first - gone
    rest = sorted(first - gone)
    assert chosen(one, set(left) - set(rest), done=rest, now=200.0) == set(rest)
    left.remove(rest[0])
    assert chosen(one, left, now=200.0) > set(rest[1:])


def test_whoever_is_silent_for_a_while_stays_but_is_replaced_meanwhile():
    one = Neighbours(OWN)
    first = set(chosen(one, IDS))
    left = [each for each in IDS if each not in first]
    more = set(chosen(one, left, silent=first, now=200.0))
    assert more > first
    assert chosen(one, IDS, now=300.0) == more


def test_others_are_chosen_for_those_that_do_not_agree_once_they_had_time_to():
    one = Neighbours(OWN)
    first = set(chosen(one, IDS, met=[]))
    fewer = [each for each in IDS if each not in sorted(first)[:2]]
    assert chosen(one, fewer, met=[], now=101.0) == first & set(fewer)
    assert chosen(one, fewer, met=[], now=106.0) > first & set(fewer)


@given(st.lists(st.sampled_from([one for one in IDS if one != OWN]), max_size=60), st.booleans())
def test_those_that_come_by_themselves_are_taken_in_until_there_are_very_many(came, named):
    one = Neighbours(OWN)
    if named:
        one.name(IDS[:3], 100.0)
    before = set(chosen(one, IDS))
    taken = {each for each in came if one.came(each, 100.0)}
    assert taken <= chosen(one, [*IDS, OWN])
    assert len(one.chosen) <= neighbours.MOST
    assert taken == set(came) or len(before | set(came)) > neighbours.MOST


@given(st.booleans(), st.booleans(), st.integers(1, 39))
def test_whoever_came_by_itself_stays_though_it_tells_of_the_set_only_later(named, tells, others):
    one, comer = Neighbours(OWN), "f" * 40
    if named:
        one.name(IDS[:3], 100.0)
    chosen(one, IDS[:others])
    assert one.came(comer, 100.0)
    assert comer in chosen(one, IDS[:others], now=101.0)
    later = [*IDS[:others], comer] if tells else IDS[:others]
    assert (comer in chosen(one, later, now=111.0)) is tells

from __future__ import annotations

from cached.replication import mesh
from cached.replication.partition import (
    CLAIMED,
    FINISHED_FIRST,
    LEASE,
    ClaimTable,
    bits_of,
    pieces_in,
    priorities,
)
from cached.replication.transfer import Holder
from hypothesis import given
from hypothesis import strategies as st


@given(st.sets(st.integers(0, 5000)))
def test_a_set_of_pieces_survives_being_a_number(pieces):
    assert list(pieces_in(bits_of(pieces))) == sorted(pieces)


def claim(
    table: ClaimTable, node: str, now: float, *, wanted: int, pending: int = 0, count=4, stalled=False, **more
):
    return table.claim(node, wanted=wanted, pending=pending, count=count, stalled=stalled, now=now, **more)


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 8), st.floats(0, 0.5)), max_size=80),
)
def test_no_piece_is_claimed_twice_while_its_owner_lives(pieces, calls):
    table, now, everything = ClaimTable(pieces), 0.0, (1 << pieces) - 1
    got: dict[str, int] = dict.fromkeys("abcde", 0)
    seen: dict[str, float] = {}
    for node, count, pause in calls:
        now += pause
        if now - seen.get(node, now) >= LEASE:
            got[node] = 0
        seen[node] = now
        grant = claim(table, node, now, wanted=everything & ~got[node], pending=got[node], count=count)
        granted = bits_of(grant.pieces)
        assert granted.bit_count() <= count
        for other, bits in got.items():
            if other == node or now - seen.get(other, -LEASE) < LEASE:
                assert not granted & bits
        got[node] |= granted


@given(st.integers(1, 120), st.integers(1, 6))
def test_every_piece_leaves_the_source_exactly_once_when_all_goes_well(pieces, nodes):
    table, everything = ClaimTable(pieces), (1 << pieces) - 1
    left = []
    have = 0
    for turn in range(pieces * 8):
        grant = claim(table, f"n{turn % nodes}", turn * 0.01, wanted=everything & ~have)
        left += grant.pieces
        have |= bits_of(grant.pieces)
    assert sorted(left) == list(range(pieces))


@given(st.integers(2, 100), st.integers(0, 3))
def test_all_pieces_arrive_although_a_node_dies_with_its_claims(pieces, claims_before_death):
    table, everything = ClaimTable(pieces), (1 << pieces) - 1
    for turn in range(claims_before_death):
        claim(table, "dead", turn * 0.1, wanted=everything, count=8)
    have, now = 0, 1.0
    for _ in range(pieces * 4 + 40):
        now += 0.25
        have |= bits_of(claim(table, "alive", now, wanted=everything & ~have).pieces)
    assert have == everything


def test_what_a_living_node_fetched_is_handed_out_again_only_to_a_stalled_one():
    table = ClaimTable(2)
    assert claim(table, "a", 0.0, wanted=0b11).pieces == (0, 1)
    claim(table, "a", 0.1, wanted=0)
    assert claim(table, "b", 0.2, wanted=0b11).pieces == ()
    assert claim(table, "b", 0.3, wanted=0b11, stalled=True).pieces == (0, 1)


def test_what_a_node_has_in_another_way_is_not_handed_to_those_who_come_later():
    table = ClaimTable(8)
    assert claim(table, "first", 0.0, wanted=0b11110000, have=0b00001111).pieces == (4, 5, 6, 7)
    assert claim(table, "late", 0.1, wanted=0b11111111).pieces == ()
    assert claim(table, "first", 0.2, wanted=0b00000010, have=0b11111101).pieces == (1,), (
        "it lost one of them"
    )
    assert claim(table, "late", 0.3 + LEASE, wanted=0b00001111, count=8).pieces == (0, 1, 2, 3), "it is gone"


def test_what_gets_on_nowhere_is_taken_from_a_slow_member_once_all_has_left_the_source():
    table, everything = ClaimTable(8), 0b11111111
    assert claim(table, "slow", 0.0, wanted=everything, count=4).pieces == (0, 1, 2, 3)
    assert claim(table, "a", 0.1, wanted=0b11110000, stuck=0b1, count=2).pieces == (4, 5)
    assert claim(table, "a", 0.2, wanted=0b11001111, pending=0b110000, stuck=0b1).pieces == (6,)
    assert claim(table, "a", 0.3, wanted=0b10001111, pending=0b1110000, stuck=0b1).pieces == (7,)
    claim(table, "slow", 2.0, wanted=0, pending=0b1111)
    taken = claim(table, "a", 2.5, wanted=0b1111, stuck=0b0111, have=0b11110000)
    assert taken.pieces == (0, 1, 2), "the fourth has not been waited for long enough"
    assert table.owners(2.5) == {0: "a", 1: "a", 2: "a", 3: "slow"}
    assert claim(table, "b", 2.6, wanted=everything, stuck=0b0111).pieces == (), "another gets them just now"
    claim(table, "slow", 4.0, wanted=0, pending=0b1111)
    claim(table, "a", 4.0, wanted=0, pending=0b0111, have=0b11110000)
    assert claim(table, "b", 5.6, wanted=everything, stuck=0b0011).pieces == (0, 1), "he did not"


def test_no_more_than_a_hundredth_of_all_pieces_leaves_the_source_again_because_it_gets_on_nowhere():
    table, everything, taken = ClaimTable(1600), (1 << 1600) - 1, 0
    claim(table, "a", 0.0, wanted=0, have=everything)
    for now in range(1, 10):
        claim(table, "a", float(now), wanted=0, have=everything)
        taken += len(claim(table, "b", float(now), wanted=everything, stuck=everything).pieces)
    assert taken == 16


def test_who_stalls_again_and_again_is_given_more_of_what_others_claim_to_have_fetched():
    table, everything = ClaimTable(64), (1 << 64) - 1
    claim(table, "liar", 0.0, wanted=everything, count=64)
    got, given = 0, []
    for turn in range(1, 6):
        claim(table, "liar", 2.0 * turn, wanted=0)
        grant = claim(table, "honest", 2.0 * turn, wanted=everything & ~got, count=64, stalled=True)
        given.append(len(grant.pieces))
        got |= bits_of(grant.pieces)
    assert given == [2, 4, 8, 16, 32]


def test_a_claim_that_is_given_up_is_free_again():
    table = ClaimTable(1)
    claim(table, "a", 0.0, wanted=1)
    assert claim(table, "b", 0.1, wanted=1).pieces == ()
    claim(table, "a", 0.2, wanted=1, count=0)
    assert claim(table, "b", 0.3, wanted=1).pieces == (0,)


def test_renewing_keeps_a_slow_owner_and_silence_does_not():
    table = ClaimTable(1)
    claim(table, "slow", 0.0, wanted=1)
    for now in (2.0, 4.0, 6.0):
        claim(table, "slow", now, wanted=0, pending=1)
        assert claim(table, "other", now, wanted=1, stalled=True).pieces == ()
    assert claim(table, "other", 6.0 + LEASE, wanted=1).pieces == (0,)


def test_windows_taper_towards_the_end():
    table = ClaimTable(12)
    for node in "abc":
        claim(table, node, 0.0, wanted=0, count=0)
    assert len(claim(table, "a", 0.1, wanted=(1 << 12) - 1, count=100).pieces) == 4
    assert len(claim(table, "b", 0.1, wanted=(1 << 12) - 1, count=100).pieces) == 2
    everything = (1 << 12) - 1
    last = bits_of(claim(table, "c", 0.1, wanted=everything, count=100).pieces)
    more = claim(table, "c", 0.1, wanted=everything & ~last, pending=last, count=100).pieces
    assert (last.bit_count(), len(more)) == (2, 1)


def test_a_table_without_callers_is_idle():
    table = ClaimTable(3)
    claim(table, "a", 0.0, wanted=1)
    assert not table.idle(1.0)
    assert table.idle(LEASE)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 1), st.data())
def test_gating_asks_for_own_claims_and_for_what_others_have(availability, sources, data):
    everyone = (1 << len(availability)) - 1
    have = data.draw(st.integers(0, everyone))
    pending = data.draw(st.integers(0, everyone)) & ~have
    wanted, alone = priorities(
        availability=availability, sources=sources, have=have, pending=pending, gated=True
    )
    for piece, count in enumerate(availability):
        if pending >> piece & 1:
            assert wanted[piece] == 7
        else:
            assert wanted[piece] == (1 if count > sources else 0)
        assert bool(alone >> piece & 1) == (count <= sources and not have >> piece & 1)
    free, _ = priorities(availability=availability, sources=sources, have=have, pending=0, gated=False)
    assert set(free) == {1}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 40), st.booleans(), st.data())
def test_where_more_pieces_are_begun_than_there_are_members_these_are_finished(
    availability, members, gated, data
):
    everyone = (1 << len(availability)) - 1
    begun, pending = data.draw(st.integers(0, everyone)), data.draw(st.integers(0, everyone))
    asked = {"availability": availability, "sources": 1, "have": 0, "pending": pending, "gated": gated}
    before, alone_before = priorities(**asked)
    wanted, alone = priorities(**asked, begun=begun, members=members)
    assert alone == alone_before
    if begun.bit_count() <= members:
        assert wanted == before
    for piece, (level, level_before) in enumerate(zip(wanted, before, strict=True)):
        raised = begun.bit_count() > members and begun >> piece & 1 and level_before == 1
        assert level == (FINISHED_FIRST if raised else level_before)
    assert 1 < FINISHED_FIRST < CLAIMED <= 7


def fetchers(count: int) -> list[Holder]:
    return [
        Holder(node_id=f"{index:03d}", host=f"10.0.0.{index}", bittorrent_port=7401, complete=False)
        for index in range(count)
    ]


@given(st.integers(2, 80))
def test_neighbours_choose_each_other_and_the_mesh_hangs_together(count):
    nodes = [node.node_id for node in fetchers(count)]
    chosen = {node: mesh.fellows(node, nodes) for node in nodes}
    assert all(a in chosen[b] for a in chosen for b in chosen[a])
    reached, frontier = {"000"}, {"000"}
    while frontier:
        frontier = set().union(*(chosen[node] for node in frontier)) - reached
        reached |= frontier
    assert len(reached) == count
    assert max(map(len, chosen.values())) <= max(mesh.FULL_MESH, 10)
    assert chosen == mesh.all_fellows(chosen)


@given(st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), min_size=2, max_size=12, unique=True))
def test_of_two_fetchers_exactly_one_introduces_both(nodes):
    assert all(mesh.introduces(a, b) != mesh.introduces(b, a) for a in nodes for b in nodes if a != b)


def test_introductions_are_shared_out_about_evenly():
    nodes = [f"{number:032x}" for number in range(40)]
    for one in nodes:
        assert 8 <= sum(mesh.introduces(one, other) for other in nodes if other != one) <= 31


def test_each_node_has_other_holders_first():
    holders = [f"{number:032x}" for number in range(40)]
    assert len({mesh.spread(f"n{number}", holders)[0] for number in range(200)}) > 30
    assert all(sorted(mesh.spread(f"n{number}", holders)) == holders for number in range(3))


@given(st.integers(2, 20))
def test_of_two_fetchers_exactly_one_dials(count):
    nodes = fetchers(count)

    def dials(one: Holder, other: Holder) -> bool:
        return bool(
            mesh.to_dial(one.node_id, [other], reachable=True, connected=(), missing_since={}, now=0.0)
        )

    assert all(dials(one, other) != dials(other, one) for one in nodes for other in nodes if one != other)


def test_who_cannot_be_reached_dials_and_who_stays_missing_is_dialled_by_anyone():
    low, high = fetchers(2)

    def dialled(me: Holder, other: Holder, *, reachable=True, now=0.0, connected=()):
        return mesh.to_dial(
            me.node_id,
            [other],
            reachable=reachable,
            connected=connected,
            missing_since={other.node_id: 0.0},
            now=now,
        )

    assert not dialled(high, low)
    assert dialled(high, low, reachable=False)
    assert dialled(high, low, now=mesh.OUT_OF_TURN)
    assert not dialled(low, high, connected={high.node_id})
    hidden = Holder(node_id="zzz", host="10.0.0.9", bittorrent_port=1, complete=True, reachable=False)
    assert not dialled(low, hidden)


class Plain:
    """A table of claims that goes through all members each time."""

    def __init__(self, pieces: int) -> None:
        self.all = (1 << pieces) - 1
        self.members: dict[str, list[float]] = {}
        self.claimed: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.taken: dict[str, int] = {}

    def claim(self, node: str, *, wanted: int, pending: int, count: int, stalled: bool, now: float) -> int:
        for one in [one for one, seen in self.members.items() if seen[0] + LEASE <= now]:
            del self.members[one], self.claimed[one], self.done[one]
            self.taken.pop(one, None)
        self.members[node] = [now]
        mine = self.claimed.get(node, 0)
        self.done[node] = (self.done.get(node, 0) | (mine & ~pending)) & ~wanted
        self.claimed[node] = mine & pending
        claimed = bits_of(piece for bits in self.claimed.values() for piece in pieces_in(bits))
        done = bits_of(piece for bits in self.done.values() for piece in pieces_in(bits))
        free = self.all & ~claimed & ~done
        most = min(count, max(1, free.bit_count() // len(self.members)))
        granted = bits_of(list(pieces_in(wanted & free))[:most])
        if stalled and not granted:
            most = min(count, 2 << self.taken.get(node, 0))
            self.taken[node] = self.taken.get(node, 0) + 1
            granted = bits_of(list(pieces_in(wanted & self.all & ~claimed))[:most])
        self.claimed[node] |= granted
        return granted


_CALLS = st.tuples(
    st.sampled_from("abcd"),
    st.integers(0, 2**12 - 1),
    st.integers(0, 2**12 - 1),
    st.integers(0, 5),
    st.booleans(),
    st.floats(0, LEASE),
)


@given(st.lists(_CALLS, max_size=60))
def test_what_is_kept_of_all_claims_is_what_going_through_all_members_would_find(calls):
    table, plain, now = ClaimTable(12), Plain(12), 0.0
    for node, wanted, pending, count, stalled, pause in calls:
        now += pause
        ask = {"wanted": wanted, "pending": pending, "count": count, "stalled": stalled, "now": now}
        assert bits_of(table.claim(node, **ask).pieces) == plain.claim(node, **ask)


@given(st.integers(8, 60), st.integers(1, 6), st.randoms(use_true_random=False))
def test_all_pieces_leave_the_source_once_although_some_come_late(pieces, nodes, chance):
    """Each node gets what it claims, stays known until it has all, and what others have comes to it now and then."""
    table, everything = ClaimTable(pieces), (1 << pieces) - 1
    have, come = [0] * nodes, [chance.uniform(0, 20) for _ in range(nodes)]
    left, now = 0, 0.0
    while any(one != everything for one in have):
        now += 0.05
        for node in range(nodes):
            if now < come[node] or have[node] == everything:
                continue
            others = 0
            for other in range(nodes):
                others |= have[other] if other != node else 0
            wanted = everything & ~others & ~have[node]
            grant = claim(table, f"n{node}", now, wanted=wanted)
            left += len(grant.pieces)
            have[node] |= bits_of(grant.pieces)
            elsewhere = list(pieces_in(others & ~have[node]))
            have[node] |= 1 << chance.choice(elsewhere) if elsewhere else 0
    assert left == pieces

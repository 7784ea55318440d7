from __future__ import annotations

from cached.replication.stuck import Rare


def test_a_piece_is_stuck_when_for_three_seconds_one_member_at_most_has_had_it_besides_the_source():
    rare, stuck = Rare(), []
    seen = [[1, 1, 2, 3], [1, 2, 2, 3], [1, 2, 2, 3], [2, 3, 2, 3], [2, 3, 2, 3], [1, 3, 3, 3]]
    for second, availability in enumerate(seen):
        rare.see(availability, sources=1, now=float(second))
        rare.see([9, 9, 9, 9], sources=1, now=second + 0.5)
        stuck.append(rare.stuck)
    assert stuck == [0, 0, 0, 0b0101, 0b0101, 0b0001]


def test_without_the_source_what_two_have_is_not_stuck():
    rare = Rare()
    for second in range(5):
        rare.see([0, 1, 2], sources=0, now=float(second))
    assert rare.stuck == 0b011

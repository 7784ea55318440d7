"""Space of one tier: the cap holds whatever happens."""

from __future__ import annotations

import pytest
from cached.objects.room import BLOCK, Room, rounded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule


def test_sizes_are_counted_in_whole_blocks():
    assert [rounded(size) for size in (0, 1, BLOCK, BLOCK + 1)] == [BLOCK, BLOCK, BLOCK, 2 * BLOCK]
    with pytest.raises(ValueError, match="-1"):
        rounded(-1)


def test_a_reservation_becomes_a_copy_and_a_copy_becomes_room():
    room = Room(10 * BLOCK)
    assert room.reserve("t", 3 * BLOCK)
    assert (room.used, room.reserved, room.free) == (0, 3 * BLOCK, 7 * BLOCK)
    assert room.commit("t", "c", 2 * BLOCK)
    assert (room.used, room.reserved, room.free) == (2 * BLOCK, 0, 8 * BLOCK)
    assert room.drop("c") == 2 * BLOCK
    assert room.drop("c") == 0
    assert room.free == 10 * BLOCK


def test_what_does_not_fit_changes_nothing_and_says_how_much_must_go():
    room = Room(4 * BLOCK)
    assert room.adopt("c", 3 * BLOCK)
    assert not room.reserve("t", 2 * BLOCK)
    assert room.lacks(2 * BLOCK) == BLOCK
    assert room.could_hold(4 * BLOCK)
    assert not room.could_hold(4 * BLOCK + 1)
    assert not room.adopt("d", 2 * BLOCK)
    assert (room.used, room.reserved) == (3 * BLOCK, 0)


def test_a_copy_that_grew_beyond_its_reservation_is_taken_only_while_there_is_room():
    room = Room(4 * BLOCK)
    room.reserve("t", BLOCK)
    room.reserve("u", 2 * BLOCK)
    assert not room.commit("t", "c", 3 * BLOCK)
    assert room.commit("t", "c", 2 * BLOCK)
    assert room.free == 0


def test_tickets_and_names_are_used_once():
    room = Room(9 * BLOCK)
    room.reserve("t", 1)
    with pytest.raises(ValueError, match="t"):
        room.reserve("t", 1)
    room.commit("t", "c", 1)
    with pytest.raises(ValueError, match="t"):
        room.commit("t", "d", 1)
    with pytest.raises(ValueError, match="c"):
        room.adopt("c", 1)


NAMES = st.sampled_from("abcdef")
SIZES = st.integers(0, 6 * BLOCK)


class RoomMachine(RuleBasedStateMachine):
    """Against two plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Room(10 * BLOCK + 17)
        self.used: dict[str, int] = {}
        self.reserved: dict[str, int] = {}

    def total(self) -> int:
        return sum(self.used.values()) + sum(self.reserved.values())

    @rule(ticket=NAMES, size=SIZES)
    def reserve(self, ticket: str, size: int) -> None:
        if ticket in self.reserved:
            return
        fits = self.total() + rounded(size) <= self.room.cap
        assert (self.room.lacks(size) == 0) == fits
        assert self.room.reserve(ticket, size) == fits
        if fits:
            self.reserved[ticket] = rounded(size)

    @rule(ticket=NAMES)
    def cancel(self, ticket: str) -> None:
        assert self.room.cancel(ticket) == self.reserved.pop(ticket, 0)

    @rule(ticket=NAMES, name=NAMES, allocated=SIZES)
    def commit(self, ticket: str, name: str, allocated: int) -> None:
        if ticket not in self.reserved or name in self.used:
            return
        fits = self.total() - self.reserved[ticket] + rounded(allocated) <= self.room.cap
        assert self.room.commit(ticket, name, allocated) == fits
        if fits:
            del self.reserved[ticket]
            self.used[name] = rounded(allocated)

    @rule(name=NAMES, allocated=SIZES)
    def adopt(self, name: str, allocated: int) -> None:
        if name in self.used:
            return
        fits = self.total() + rounded(allocated) <= self.room.cap
        assert self.room.adopt(name, allocated) == fits
        if fits:
            self.used[name] = rounded(allocated)

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        assert self.room.drop(name) == self.used.pop(name, 0)

    @invariant()
    def the_cap_holds(self) -> None:
        assert self.room.used == sum(self.used.values())
        assert self.room.reserved == sum(self.reserved.values())
        assert self.room.used + self.room.reserved <= self.room.cap


TestRoomMachine = RoomMachine.TestCase
TestRoomMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

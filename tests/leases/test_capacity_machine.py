"""A tier's space under creates, failures, deletions and neighbours: never over-committed, nothing leaks."""

from __future__ import annotations

import pytest
from cached.errors import NoSpace
from cached.leases.capacity import Space
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec.structs import replace

sizes = st.integers(0, 1_000)


class CapacityLedger(RuleBasedStateMachine):
    """The model is a partition with real blocks on it; the ledger is told only how much of it is free."""

    reserved = Bundle("reserved")
    committed = Bundle("committed")
    going = Bundle("going")

    def __init__(self) -> None:
        super().__init__()
        self.partition = 4_000
        self.others = 0
        self.capacity_never_lowered = True
        self.holds = {"reserved": 0, "committed": 0, "going": 0}
        self.space = Space(capacity=3_000, floor=200, partition_free=self.partition)

    def move(self, old, new, size):
        self.holds[old] -= size
        self.holds[new] += size

    @rule(target=reserved, size=sizes)
    def reserve(self, size):
        free = self.space.free()
        if size > free:
            with pytest.raises(NoSpace) as refused:
                self.space.reserve(size)
            assert refused.value.details == {"bytes_needed": size, "bytes_free": free}
            return 0
        self.space = self.space.reserve(size)
        self.holds["reserved"] += size
        return size

    @rule(size=consumes(reserved))
    def fail(self, size):
        self.space = self.space.release(size)
        self.holds["reserved"] -= size

    @rule(target=committed, size=consumes(reserved), share=st.integers(0, 100))
    def commit(self, size, share):
        written = size * share // 100
        self.space = self.space.commit(size, written)
        self.holds["reserved"] -= size
        self.holds["committed"] += written
        return written

    @rule(target=going, size=consumes(committed))
    def delete(self, size):
        self.space = self.space.go(size)
        self.move("committed", "going", size)
        return size

    @rule(size=consumes(going))
    def close_the_last_reader(self, size):
        self.space = self.space.gone(size)
        self.holds["going"] -= size

    @rule(size=st.integers(-1_500, 1_500))
    def others_write_or_delete(self, size):
        others = max(0, min(self.others + size, self.partition - sum(self.holds.values())))
        self.space = replace(self.space, partition_free=self.space.partition_free - (others - self.others))
        self.others = others

    @rule(capacity=st.integers(0, 5_000))
    def the_capacity_is_configured_anew(self, capacity):
        self.space = replace(self.space, capacity=capacity)
        self.capacity_never_lowered = False

    @rule(size=st.integers(1, 50))
    def giving_back_more_than_there_is_is_a_mistake_and_changes_nothing(self, size):
        space = self.space
        for wrong in (
            lambda: space.release(space.reserved + size),
            lambda: space.commit(space.reserved + size, 0),
            lambda: space.commit(space.reserved, space.reserved + size),
            lambda: space.go(space.committed + size),
            lambda: space.gone(space.going + size),
        ):
            with pytest.raises(AssertionError, match=r"^(released|wrote|deleted|returned) more"):
                wrong()

    @invariant()
    def nothing_leaks(self):
        space = self.space
        assert self.holds == {"reserved": space.reserved, "committed": space.committed, "going": space.going}
        assert space.used() == sum(self.holds.values())
        assert space.partition_free == self.partition - self.others - space.used()

    @invariant()
    def never_over_committed(self):
        space = self.space
        assert space.free() >= 0
        assert space.partition_free >= 0
        if self.capacity_never_lowered:
            assert space.used() <= space.capacity
        if space.free():
            assert space.used() + space.free() <= space.capacity
            assert space.partition_free - space.free() >= space.floor


CapacityLedger.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCapacityLedger = CapacityLedger.TestCase

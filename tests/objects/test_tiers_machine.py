"""Tiers under everything that may happen to them: the caps hold, nothing is lost but for room, readers read on."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from cached.objects.tiers import Copy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.objects.shelves import KB, Shelves, content

NAMES = st.sampled_from([f"o{number}" for number in range(12)])
MEMORY, DISK = 48 * KB, 96 * KB


def size(name: str) -> int:
    return 3 * KB + 4 * KB * int(name[1:])


class TiersMachine(RuleBasedStateMachine):
    """What is expected to be here is a set of names; an event is the only way to leave it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="cached-"))
        self.runner = asyncio.Runner()
        self.shelves = Shelves(self.root, MEMORY, DISK)
        self.here: set[tuple[str, str]] = set()
        self.open: list[tuple[str, Copy]] = []
        self.cleared: set[int] = set()

    def teardown(self) -> None:
        for _, copy in self.open:
            self.runner.run(self.close(copy))
        self.runner.close()
        shutil.rmtree(self.root)

    async def close(self, copy: Copy) -> None:
        self.shelves.close(copy)

    def heard(self) -> None:
        for event in self.shelves.events:
            if event.what == "refused":
                continue
            assert event.entry is not None
            place = (event.entry.key.name, str(event.tier))
            if event.what == "admitted":
                assert place not in self.here
                self.here.add(place)
            else:
                assert event.reason not in ("lost", "unknown", "damaged")
                assert event.reason not in ("room", "twin") or event.entry.pins == 0
                self.here.remove(place)
        self.shelves.events.clear()

    @rule(name=NAMES, flagged=st.booleans(), user=st.sampled_from(["ada", "bob"]))
    def read(self, name: str, flagged: bool, user: str) -> None:
        before = {tier for one, tier in self.here if one == name}
        where = self.runner.run(self.shelves.read(name, size(name), user, flagged=flagged))
        assert where == ("memory" if "memory" in before else "disk" if before else where)
        assert before or where in ("origin", "through")

    @rule(names=st.lists(NAMES, min_size=2, max_size=5), flagged=st.booleans())
    def read_at_once(self, names: list[str], flagged: bool) -> None:
        async def together() -> None:
            await asyncio.gather(*(self.shelves.fetch(name, size(name), flagged=flagged) for name in names))

        self.runner.run(together())

    @rule(name=NAMES)
    def begin(self, name: str) -> None:
        copy = self.shelves.open(name)
        assert (copy is None) == (not any(one == name for one, _ in self.here))
        if copy is not None:
            self.open.append((name, copy))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        name, copy = self.open.pop(which % len(self.open))
        assert os.pread(copy.fd, DISK, 0) == content(name, size(name))
        self.runner.run(self.close(copy))

    @rule(name=NAMES, user=st.none() | st.sampled_from(["ada", "bob"]))
    def clear(self, name: str, user: str | None) -> None:
        self.runner.run(self.shelves.tiers.clear(lambda entry: entry.key.name == name, "cleared", user=user))
        if user is None:
            self.heard()
            assert not any(one == name for one, _ in self.here)

    @precondition(lambda self: not self.open)
    @rule()
    def restart(self) -> None:
        self.heard()
        self.runner.run(self.shelves.restart())
        assert not self.shelves.events

    @invariant()
    def caps_hold_and_everybody_agrees(self) -> None:
        self.runner.run(self.shelves.tiers.reap())
        self.heard()
        self.shelves.check_idle()
        assert self.here == {
            (entry.key.name, tier) for entry in self.shelves.tiers.index for tier in entry.held
        }

    @invariant()
    def what_is_read_is_here_unless_somebody_cleared_it(self) -> None:
        for name, copy in self.open:
            assert os.pread(copy.fd, 64, 0) == content(name, 64)
            assert copy.entry.pins > 0

    @precondition(lambda self: not self.open)
    @invariant()
    def nothing_is_left_of_what_nobody_reads(self) -> None:
        self.runner.run(self.shelves.tiers.reap())
        assert not self.shelves.tiers.leaving()


TestTiersMachine = TiersMachine.TestCase
TestTiersMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

"""A ledger of leases on a node whose clocks jump, that sleeps, reboots and crashes: no lease ends early."""

from __future__ import annotations

from cached.errors import LeaseRefused
from cached.leases import policy
from cached.leases.deadline import PLAUSIBLE_GAP, Moment, advance, carry
from cached.leases.lease import granted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

DAY = 86_400.0
YEAR = 365 * DAY
MAX_LEASE = int(30 * DAY)
#: Seconds: floats of this size keep a microsecond, and steps add up.
SLACK = 0.01

durations = st.integers(1, int(60 * DAY))
spans = st.one_of(st.floats(0, 60), st.floats(0, 3 * DAY), st.floats(0, 40 * DAY))
jumps = st.one_of(st.floats(-3600, 3600), st.floats(-10 * YEAR, 10 * YEAR))


class LeaseLedger(RuleBasedStateMachine):
    """The model knows the true time; the ledger sees only clocks."""

    sets = Bundle("sets")

    def __init__(self) -> None:
        super().__init__()
        self.true = 0.0
        self.boot = 0
        self.boot_began = -500.0
        self.wall_offset = 1.7e9
        self.leases = {}
        #: True time until which each lease was promised.
        self.promised = {}
        self.count = 0
        #: No clock was ever wrong: then leases must end on time, too.
        self.honest = True
        self.high_water = self.now()

    def now(self):
        return Moment(
            boot_id=f"boot-{self.boot}",
            boottime=self.true - self.boot_began,
            wall=self.true + self.wall_offset,
        )

    def commit(self):
        self.high_water = advance(self.high_water, self.now())

    @rule(target=sets, asked=durations, min_lease=st.integers(0, int(DAY)))
    def grant(self, asked, min_lease):
        self.count += 1
        key = f"set-{self.count}"
        try:
            grant = policy.decide(
                asked=asked, min_lease=min_lease, max_lease=MAX_LEASE, default=int(DAY), draining=False
            )
        except LeaseRefused:
            assert min(asked, MAX_LEASE) < min_lease
            return key
        assert min_lease <= grant.seconds <= MAX_LEASE
        self.leases[key] = granted(grant.seconds, self.now())
        self.promised[key] = self.true + grant.seconds
        self.commit()
        return key

    @rule(key=sets, asked=durations)
    def extend(self, key, asked):
        if key not in self.leases:
            return
        lease = self.leases[key]
        left = lease.left(self.now(), self.high_water)
        grant = policy.extension(left, asked, MAX_LEASE)
        longer = lease.extended(grant.seconds, self.now(), self.high_water)
        assert longer.left(self.now(), self.high_water) >= left
        if longer is not lease:
            self.promised[key] = max(self.promised[key], self.true + grant.seconds)
        self.leases[key] = longer
        self.commit()

    @rule(key=sets, set_left=st.floats(0, 90 * DAY))
    def renew(self, key, set_left):
        if key not in self.leases:
            return
        lease, now = self.leases[key], self.now()
        wanted = policy.renewal_due(
            lease.left(now, self.high_water), lease.granted_seconds, set_left, MAX_LEASE
        )
        if wanted is not None:
            assert wanted <= set_left
            self.leases[key] = lease.extended(wanted, now, self.high_water)
            self.promised[key] = max(self.promised[key], self.true + wanted)
            self.commit()

    @rule(span=spans)
    def time_passes_or_the_machine_sleeps(self, span):
        self.true += span

    @rule(jump=jumps)
    def the_wall_clock_jumps(self, jump):
        self.wall_offset += jump
        self.honest = False

    @rule()
    def heartbeat(self):
        self.commit()

    def restart(self, off, wall):
        """Crash, stay off, boot with a wall clock that reads `wall`; then settle as the catalog does."""
        self.true += off
        self.boot += 1
        self.boot_began = self.true
        self.true += 1.0
        self.wall_offset = wall - self.true
        now, last = self.now(), self.high_water
        self.leases = {
            key: replace(lease, deadline=carry(lease.deadline, now, last))
            for key, lease in self.leases.items()
        }
        self.commit()

    @rule(off=spans)
    def reboot_with_the_right_time(self, off):
        wall = self.true + off + 1.0 + 1.7e9
        if wall - self.high_water.wall > PLAUSIBLE_GAP:
            self.honest = False
        self.restart(off, wall)

    @rule(off=spans, behind=st.floats(1, 10 * YEAR))
    def reboot_with_a_clock_that_is_behind(self, off, behind):
        self.honest = False
        self.restart(off, self.high_water.wall - behind)

    @rule(off=spans, ahead=st.floats(PLAUSIBLE_GAP + 1, 10 * YEAR))
    def reboot_with_a_clock_that_is_far_ahead(self, off, ahead):
        self.honest = False
        self.restart(off, self.high_water.wall + ahead)

    @invariant()
    def no_lease_ends_early(self):
        for key, lease in self.leases.items():
            left = lease.left(self.now(), self.high_water)
            assert left >= self.promised[key] - self.true - SLACK, key

    @precondition(lambda self: self.honest)
    @invariant()
    def with_honest_clocks_no_lease_ends_late(self):
        for key, lease in self.leases.items():
            left = lease.left(self.now(), self.high_water)
            assert left <= max(0.0, self.promised[key] - self.true) + SLACK, key


LeaseLedger.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLeaseLedger = LeaseLedger.TestCase

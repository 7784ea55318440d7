"""Who reads which block from the origin: each once, by a few, and again only when a reader fell silent."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from cached.replication.reading import ALONE, CLAIMS, LEASE, SETTLE, SLOW, Ask, Table, block_leaves, may_be
from cached.sets.merkle import LEAF
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

BLOCKS = 24


def ask(have=0, reading=0, *, read=4, get=4, **more):
    return Ask(
        set="s",
        content="c",
        blocks=BLOCKS,
        have=f"{have:x}",
        reading=f"{reading:x}",
        read=read,
        get=get,
        **more,
    )


def bits(blocks):
    return sum(1 << block for block in blocks)


def test_only_so_many_nodes_read_as_are_configured_and_no_block_is_given_twice():
    table = Table("c", BLOCKS)
    given = [table.ask(f"n{number}", ask(readers=2), 0.0).read for number in range(5)]
    assert [bool(blocks) for blocks in given].count(True) == 2
    claimed = [block for blocks in given for block in blocks]
    assert len(claimed) == len(set(claimed)) == 8


def test_a_silent_reader_is_replaced_and_its_blocks_are_read_by_another():
    table = Table("c", BLOCKS)
    first = table.ask("a", ask(readers=1), 0.0).read
    assert table.ask("b", ask(readers=1), 0.1).read == ()
    assert table.ask("b", ask(readers=1), LEASE + 0.2).read == first
    assert LEASE + 0.5 < 5


def test_a_keeper_that_takes_over_listens_before_it_has_anything_read():
    table = Table("c", BLOCKS)
    assert table.ask("a", ask(fresh=False), 0.0).read == ()
    table.ask("b", ask(have=0b1111, reading=0b110000, fresh=False), 0.5)
    read = table.ask("a", ask(fresh=False), SETTLE + 0.1).read
    assert not set(read) & set(range(6))
    assert read


def test_who_lacks_a_block_gets_it_from_who_has_it_and_the_load_is_spread():
    table = Table("c", BLOCKS)
    everything = (1 << BLOCKS) - 1
    table.ask("a", ask(everything), 0.0)
    table.ask("b", ask(everything), 0.0)
    gifts = table.ask("c", ask(get=8), 0.0).get
    assert len({block for block, _ in gifts}) == 8
    assert [giver for _, giver in gifts].count("a") == 4
    assert all(giver == "b" for _, giver in table.ask("c", ask(avoid=("a",)), 0.0).get)


def test_a_member_that_has_everything_is_remembered_though_it_is_silent():
    table = Table("c", BLOCKS)
    table.ask("a", ask((1 << BLOCKS) - 1), 0.0)
    share = table.ask("b", ask(), 30.0)
    assert share.read == ()
    assert {giver for _, giver in share.get} == {"a"}


def test_a_member_that_had_everything_and_gives_nothing_any_more_is_forgotten():
    table = Table("c", BLOCKS)
    table.ask("a", ask((1 << BLOCKS) - 1), 0.0)
    assert table.ask("b", ask(), LEASE + 1).read == ()
    assert table.ask("b", ask(avoid=("a",)), LEASE + 2).read


def test_when_nobody_can_read_everybody_hears_why():
    table = Table("c", BLOCKS)
    table.ask("a", ask(read=0, unable="gs://b/o: HTTP 403", code="forbidden"), 0.0)
    share = table.ask("b", ask(read=0, unable="gs://b/o: HTTP 403", code="forbidden"), 0.0)
    assert (share.hopeless, share.code) == ("gs://b/o: HTTP 403", "forbidden")
    assert table.ask("c", ask(), 0.1).hopeless == ""


def test_a_block_that_is_read_for_very_long_is_read_by_a_second_one_when_nothing_else_is_left():
    table = Table("c", BLOCKS)
    all_but_one = ((1 << BLOCKS) - 1) & ~1
    table.ask("a", ask(0, 1, read=0), 0.0)
    for now in range(1, int(SLOW) + 2):
        table.ask("a", ask(0, 1, read=0), float(now))
        share = table.ask("b", ask(all_but_one), float(now))
        assert share.read == (() if now <= SLOW else (0,))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="invalid literal"):
        Table("c", BLOCKS).ask("a", msgspec_ask(), 0.0)


def msgspec_ask():
    return Ask(set="s", content="c", blocks=BLOCKS, have="zz")


@given(st.integers(min_value=1, max_value=1 << 50))
def test_a_block_is_a_power_of_two_between_the_bounds(total):
    size = block_leaves(total) * LEAF
    assert 1 << 20 <= size <= 8 << 20
    assert size & (size - 1) == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_however_members_come_go_and_dawdle_all_is_read_once_if_nobody_falls_silent(data):
    table = Table("c", BLOCKS)
    members = {f"n{number}": (set(), set()) for number in range(data.draw(st.integers(1, 6)))}
    everything = set(range(BLOCKS))
    now, reads = 0.0, []
    for _ in range(2000):
        if all(have == everything for have, _ in members.values()):
            break
        now += 0.05
        who = (
            data.draw(st.sampled_from(sorted(members)))
            if now < 10
            else sorted(members)[int(now * 20) % len(members)]
        )
        for name, (have, reading) in members.items():  # everybody gives a sign of life
            if name != who:
                table.ask(name, ask(bits(have), bits(reading), read=0, get=0), now)
        have, reading = members[who]
        for block in list(reading):
            reading.discard(block)
            have.add(block)
        share = table.ask(who, ask(bits(have), bits(reading), readers=2), now)
        reading |= set(share.read)
        reads += share.read
        for block, giver in share.get:
            assert block in members[giver][0]
            have.add(block)
    assert sorted(reads) == sorted(everything)
    assert all(have == everything for have, _ in members.values())


@pytest.mark.parametrize(
    "nonsense",
    [
        {"getting": {"17179869184": "b"}},
        {"getting": {str(BLOCKS): "b"}},
        {"getting": {"-1": "b"}},
        {"getting": {"one": "b"}},
        {"reading": "g"},
    ],
)
def test_what_names_no_block_is_refused_and_changes_nothing(nonsense):
    table = Table("c", BLOCKS)
    with pytest.raises(ValueError, match=r"block|invalid"):
        table.ask("a", msgspec.structs.replace(ask(), **nonsense), 0.0)
    assert table.idle(0.0)


def test_nobody_claims_or_gets_more_blocks_than_one_answer_looks_at():
    table = Table("c", 10_000)
    wide = msgspec.structs.replace(ask(read=10_000), blocks=10_000)
    for many in (
        {"reading": f"{(1 << 10_000) - 1:x}"},
        {"getting": dict.fromkeys(map(str, range(1000)), "b")},
    ):
        with pytest.raises(ValueError, match="so many"):
            table.ask("a", msgspec.structs.replace(wide, **many), 0.0)
    assert len(table.ask("a", wide, 0.0).read) == CLAIMS


@given(st.lists(st.integers(0, 40 << 20), max_size=20))
def test_the_number_of_blocks_fits_the_size_of_the_content(sizes):
    total = sum(sizes)
    leaves, size = sum(-(-one // LEAF) for one in sizes), block_leaves(total)
    blocks = -(-leaves // size)
    assert may_be(blocks, total, len(sizes))
    assert not may_be(-1, total, len(sizes))
    assert not may_be(blocks + len(sizes) + 1, total, len(sizes))


def test_nobody_holds_more_than_a_few_claims_and_claiming_anew_wins_no_time():
    table = Table("c", 1000)
    wide = msgspec.structs.replace(ask(read=0), blocks=1000)
    greedy = msgspec.structs.replace(wide, reading=f"{(1 << 400) - 1:x}")
    table.ask("g", greedy, 0.0)
    assert len(table.claimed(0.0)) == CLAIMS
    everything_else = ((1 << 1000) - 1) & ~0b11
    for now in range(1, int(SLOW) + 2):  # it lets go of the last two, and claims them again, all the time
        table.ask("g", msgspec.structs.replace(wide, reading="3" if now % 2 else "0"), float(now))
        share = table.ask("b", msgspec.structs.replace(wide, have=f"{everything_else:x}", read=4), float(now))
    assert share.read


def test_blocks_that_only_a_liar_says_to_have_are_read_by_who_got_nothing_from_it():
    table = Table("c", BLOCKS)
    table.ask("liar", ask((1 << BLOCKS) - 1, read=0), 0.0)
    assert table.ask("b", ask(readers=2), 0.0).read == ()
    share = table.ask("b", ask(readers=2, avoid=("liar",), distrusted=("liar",)), 0.1)
    assert share.read
    assert not share.get


def test_who_gets_something_from_a_member_that_fell_silent_is_told():
    table = Table("c", BLOCKS)
    table.ask("a", ask(0b11, read=0), 0.0)
    assert table.ask("b", ask(getting={"0": "a"}), 0.1).silent == ()
    for now in (1.0, 2.0, 3.0, 4.0):
        table.ask("b", ask(getting={"0": "a"}), now)
    said = table.ask("b", ask(getting={"0": "a"}), LEASE + 0.5)
    assert said.silent == ("a",)
    assert 0 in said.read


class Pool(RuleBasedStateMachine):
    """Honest members beside others that stop, lie and claim too much; the honest ones always finish."""

    @initialize(honest=st.integers(1, 4), wicked=st.integers(0, 3), readers=st.integers(1, 4))
    def begin(self, honest, wicked, readers):
        self.table, self.now, self.readers = Table("c", BLOCKS), 0.0, readers
        self.have = {f"h{number}": set() for number in range(honest)}
        self.reading = {who: {} for who in self.have}
        self.shunned = {who: {} for who in self.have}
        self.wicked = [f"w{number}" for number in range(wicked)]
        self.stopped = set()
        self.reads = Counter()
        self.alone = set()
        self.moved = dict.fromkeys(self.have, 0.0)

    def say(self, who):
        """One honest word, and what comes of it: what was claimed is read by the next word, gifts come at once."""
        have, reading = self.have[who], self.reading[who]
        for block in [block for block, since in reading.items() if self.now > since]:
            del reading[block]
            have.add(block)
            self.moved[who] = self.now
        failed = self.shunned[who]
        avoid = tuple(other for other, (until, _) in failed.items() if until > self.now)
        said = ask(
            bits(have),
            bits(reading),
            readers=self.readers,
            fresh=not self.now,
            avoid=avoid,
            distrusted=tuple(other for other in avoid if failed[other][1] > 1),
        )
        share = self.table.ask(who, said, self.now)
        assert len(share.read) <= CLAIMS
        for block in share.read:
            assert block not in have
            elsewhere = any(block in self.reading[one] for one in self.have if one not in self.stopped)
            assert not elsewhere or self.slow(block) or block in self.alone
            reading[block] = self.now
            self.reads[block] += 1
        for block, giver in share.get:
            if block in self.have.get(giver, ()) and giver not in self.stopped:
                have.add(block)
                failed.pop(giver, None)
                self.moved[who] = self.now
            else:
                failed[giver] = self.now + 5.0, failed.get(giver, (0, 0))[1] + 1
        if self.now - self.moved[who] > ALONE and len(have) < BLOCKS and not reading:
            block = min(set(range(BLOCKS)) - have)  # nobody's word keeps it waiting for ever
            reading[block] = self.now
            self.reads[block] += 1
            self.alone.add(block)

    def slow(self, block):
        return any(self.now - other.get(block, self.now) > SLOW for other in self.reading.values())

    @rule(step=st.floats(0.05, 1.0))
    def time_passes(self, step):
        self.now += step
        for who in self.have:
            if who not in self.stopped:
                self.say(who)

    @precondition(lambda self: self.wicked)
    @rule(data=st.data())
    def somebody_lies(self, data):
        numbers = st.sets(st.integers(0, BLOCKS - 1)).map(bits)
        who = data.draw(st.sampled_from(self.wicked))
        others = st.lists(st.sampled_from(sorted(self.have)), max_size=3).map(tuple)
        said = ask(
            data.draw(numbers),
            data.draw(numbers),
            read=data.draw(st.integers(0, 600)),
            get=data.draw(st.integers(0, 50)),
            readers=data.draw(st.integers(1, 9)),
            avoid=data.draw(others),
            distrusted=data.draw(others),
            unable=data.draw(st.sampled_from(["", "gs://b/o: HTTP 403"])),
            getting={str(block): "h0" for block in data.draw(st.sets(st.integers(0, BLOCKS - 1)))},
        )
        self.table.ask(who, said, self.now)

    @precondition(lambda self: len(self.have) - len(self.stopped) > 1)
    @rule(data=st.data())
    def somebody_stops(self, data):
        self.stopped.add(data.draw(st.sampled_from(sorted(set(self.have) - self.stopped))))

    def teardown(self):
        """The wicked go on saying their worst, and yet everybody else has all of it within a bounded time."""
        if not hasattr(self, "table"):
            return
        alive = [who for who in self.have if who not in self.stopped]
        everything = (1 << BLOCKS) - 1
        until = self.now + (len(self.wicked) + 2) * (SLOW + ALONE) + BLOCKS * (SLOW + ALONE)
        lies = [ask(0, everything, read=600), ask(everything, 0, read=0), ask(0, 0, read=600, readers=1)]
        while not all(len(self.have[who]) == BLOCKS for who in alive):
            self.now += 1.0
            assert self.now < until, (self.have, self.reading)
            for who, lie in zip(self.wicked, lies, strict=False):
                self.table.ask(who, lie, self.now)
            for who in alive:
                self.say(who)
        if not self.wicked and not self.stopped:
            assert set(self.reads.values()) == {1}


Pool.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestPool = Pool.TestCase

"""Who reads which block from the origin: each once, by a few, and again only when a reader fell silent."""

from __future__ import annotations

import msgspec
import pytest
from cached.replication.reading import LEASE, SETTLE, SLOW, Ask, Table, block_leaves, may_be
from cached.sets.merkle import LEAF
from hypothesis import given, settings
from hypothesis import strategies as st

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
    assert len(table.ask("a", wide, 0.0).read) == 512


@given(st.lists(st.integers(0, 40 << 20), max_size=20))
def test_the_number_of_blocks_fits_the_size_of_the_content(sizes):
    total = sum(sizes)
    leaves, size = sum(-(-one // LEAF) for one in sizes), block_leaves(total)
    blocks = -(-leaves // size)
    assert may_be(blocks, total, len(sizes))
    assert not may_be(-1, total, len(sizes))
    assert not may_be(blocks + len(sizes) + 1, total, len(sizes))

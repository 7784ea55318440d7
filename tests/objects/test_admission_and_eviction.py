"""What is let in, where, and what goes."""

from __future__ import annotations

from cached.objects.admission import Ghosts, belongs_in_memory, ceiling
from cached.objects.entry import Entry, Held
from cached.objects.eviction import ENOUGH, FEW, Ranking, worth
from cached.objects.index import Index
from cached.objects.key import ObjectKey
from cached.objects.room import BLOCK
from hypothesis import given
from hypothesis import strategies as st

MB = 1 << 20


def test_ghosts_are_bounded_and_the_longest_untouched_goes():
    ghosts = Ghosts(2)
    for name in ("a", "b", "a", "c"):
        ghosts.keep(name, ghosts.touches(name) + 1)
    assert (ghosts.touches("a"), ghosts.touches("b"), ghosts.touches("c")) == (2, 0, 1)
    ghosts.forget("a")
    ghosts.forget("never")
    assert len(ghosts) == 1


def test_memory_is_for_the_second_touch_or_by_flag():
    assert not belongs_in_memory(1, flagged=False)
    assert belongs_in_memory(2, flagged=False)
    assert belongs_in_memory(1, flagged=True)


def test_one_object_takes_a_quarter_of_memory_but_all_of_the_last_tier():
    assert ceiling("memory", 100 * MB, alone=False) == 25 * MB
    assert ceiling("memory", 100 * MB, alone=True) == 100 * MB
    assert ceiling("disk", 100 * MB, alone=False) == 100 * MB


def test_the_origin_is_dear_a_peer_is_cheap_and_small_ones_cost_more_per_byte():
    assert worth(MB, 1, "origin") > worth(MB, 1, "peer") >= worth(MB, 1, "redis")
    assert worth(MB // 4, 1, "origin") > worth(MB, 1, "origin") > worth(64 * MB, 1, "origin")
    assert worth(0, 1, "origin") == worth(1, 1, "origin")


@given(st.integers(0, 1 << 40), st.integers(0, 20), st.sampled_from(["origin", "peer", "redis"]))
def test_more_use_is_never_worth_less_and_beyond_a_limit_no_more(size, uses, source):
    assert worth(size, uses, source) <= worth(size, uses + 1, source)
    assert worth(size, FEW, source) == worth(size, 0, source)
    assert worth(size, ENOUGH, source) == worth(size, ENOUGH + 9, source)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=60),
    st.integers(0, 40),
    st.sets(st.integers(0, 9)),
    st.none() | st.integers(0, 5),
)
def test_victims_are_the_least_worth_to_the_byte_target_without_those_that_must_stay(
    puts, wanted, pinned, below
):
    ranking, order = Ranking(), {}
    for serial, (name, score) in enumerate(puts):
        ranking.put(str(name), score)
        order[name] = (score, serial)
    gives = {name: 0 if name in pinned else name + 1 for name in range(10)}
    expected, missing = [], wanted
    for name in sorted(order, key=order.__getitem__):
        if missing <= 0 or (below is not None and order[name][0] >= below):
            break
        if gives[name]:
            expected.append(str(name))
            missing -= gives[name]
    for _ in range(2):  # asking changes nothing
        found = ranking.victims(wanted, lambda name: gives[int(name)], below)
        assert found == (expected if missing <= 0 else None)


def test_the_ranking_does_not_grow_with_the_number_of_touches():
    ranking = Ranking()
    for number in range(10_000):
        ranking.put(str(number % 10), number)
    assert len(ranking) == 10
    assert len(ranking._heap) < 200
    ranking.remove("0")
    assert ranking.victims(10, lambda _: 1) is None
    assert len(ranking.victims(9, lambda _: 1) or []) == 9


def entry(name: str, size: int, touches: int = 1) -> Entry:
    return Entry(
        name=name, key=ObjectKey("b", name, 1), block=None, size=size, crc32c=0, scope="", users=(),
        source="origin", last_used=0.0, frequency=touches, boot="", held={},
    )  # fmt: skip


def put(index: Index, one: Entry, tier: str) -> None:
    assert index.rooms[tier].adopt(f"{one.name}.{tier}", one.size)
    index.keep(one, tier, Held(f"{one.name}.{tier}", one.size))


def test_a_new_copy_goes_to_disk_and_one_that_was_asked_for_before_to_memory():
    index = Index({"memory": 10 * MB, "disk": 20 * MB})
    assert index.missed("a") == 1
    assert index.choose(MB, 1) == ["disk"]
    assert index.missed("a") == 2
    assert index.choose(MB, 2) == ["memory", "disk"]
    assert index.choose(MB, 1, flagged=True) == ["memory", "disk"]
    assert index.choose(3 * MB, 2) == ["disk"]
    assert index.choose(21 * MB, 2) == []


def test_a_node_with_one_tier_uses_it_for_all():
    assert Index({"memory": 10 * MB}).choose(10 * MB, 1) == ["memory"]
    assert Index({"disk": 10 * MB}).choose(10 * MB, 5, flagged=True) == ["disk"]
    assert Index({}).choose(1, 5) == []


def test_a_copy_whose_twin_is_in_memory_goes_from_disk_first_and_pinned_ones_never():
    index = Index({"memory": 10 * MB, "disk": 3 * BLOCK})
    ones = [entry(name, BLOCK) for name in "abc"]
    for one in ones:
        put(index, one, "disk")
    put(index, ones[2], "memory")
    assert index.victims("disk", 2 * BLOCK) == [ones[2], ones[0]]
    ones[2].pins = 1
    assert index.victims("disk", 2 * BLOCK) == [ones[0], ones[1]]
    assert index.victims("disk", 3 * BLOCK) is None
    ones[2].pins = 0
    index.detach(ones[2], "memory", remember=True)
    assert index.victims("disk", BLOCK) == [ones[0]]


def test_what_was_used_lately_makes_way_for_nothing_that_is_worth_less():
    index = Index({"disk": 2 * BLOCK})
    old, new = entry("old", BLOCK), entry("new", BLOCK)
    put(index, old, "disk")
    put(index, new, "disk")
    index.touch(new, "ada", 1.0)
    assert index.victims("disk", BLOCK, rival=new) == [old]
    assert index.victims("disk", BLOCK, rival=old) is None
    assert new.users == ("ada",)


def test_what_had_to_go_is_remembered_and_what_was_removed_on_purpose_is_not():
    index = Index({"disk": 9 * BLOCK})
    for name, remember in (("room", True), ("cleared", False)):
        one = entry(name, BLOCK, touches=3)
        put(index, one, "disk")
        index.detach(one, "disk", remember=remember)
        assert index.get(name) is None
    assert (index.missed("room"), index.missed("cleared")) == (4, 1)


def test_users_of_an_entry_are_bounded_and_the_last_reader_is_last():
    one = entry("a", 1)
    for number in range(40):
        one.used_by(f"u{number}", float(number))
    one.used_by("u30", 50.0)
    one.used_by("", 51.0)
    assert len(one.users) == 16
    assert one.users[-2:] == ("u39", "u30")
    assert one.last_used == 51.0
    assert Entry.of(one.row).row == one.row

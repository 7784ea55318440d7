"""What contents take that have files in common, and what comes back when some go."""

from __future__ import annotations

from collections import Counter

from cached.leases.reclaim import choose
from cached.leases.sharing import Name, bequest, charges, families, groups, own, returned
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.leases.test_reclaim import candidate

#: What a content takes besides its files.
OVERHEAD = 7
#: Inode -> bytes.
FILES = {inode: 10 * inode + 1 for inode in range(8)}

contents = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from(sorted(FILES)), max_size=6), max_size=6
)


def names_of(content, held):
    """The names that one content has of files which have others, too."""
    links = Counter(inode for inodes in held.values() for inode in inodes)
    return [
        Name(content=content, inode=inode, links=links[inode], bytes=FILES[inode])
        for inode in held[content]
        if links[inode] > 1
    ]


def all_names(held):
    return [name for content in held for name in names_of(content, held)]


def full(inodes):
    return OVERHEAD + sum(FILES[inode] for inode in inodes)


def takes(held):
    """What these contents take in all."""
    there = {inode for inodes in held.values() for inode in inodes}
    return OVERHEAD * len(held) + sum(FILES[inode] for inode in there)


@given(held=contents)
def test_what_one_content_returns_is_what_is_less_without_it(held):
    for gone in held:
        rest = {content: inodes for content, inodes in held.items() if content != gone}
        assert returned(full(held[gone]), names_of(gone, held)) == takes(held) - takes(rest)


@given(held=contents, data=st.data())
def test_what_some_contents_return_together_is_what_is_less_without_them(held, data):
    gone = data.draw(st.sets(st.sampled_from(sorted(held)))) if held else set()
    names = [name for content in gone for name in names_of(content, held)]
    alone = sum(own(full(held[content]), names_of(content, held)) for content in gone)
    together = sum(size for group, size in groups(names).items() if group <= gone)
    rest = {content: inodes for content, inodes in held.items() if content not in gone}
    assert alone + together == takes(held) - takes(rest)


@given(held=contents)
def test_charges_that_are_counted_anew_add_up_to_what_is_there(held):
    charged = charges({content: full(inodes) for content, inodes in held.items()}, all_names(held))
    assert sum(charged.values()) == takes(held)
    assert all(charge >= OVERHEAD for charge in charged.values())


@given(held=contents)
def test_contents_of_two_families_have_no_file_in_common(held):
    found = families(all_names({content: sorted(set(inodes)) for content, inodes in held.items()}))
    assert len(frozenset().union(*found)) == sum(map(len, found))
    by = {content: family for family in found for content in family}
    for content, inodes in held.items():
        for other, theirs in held.items():
            if content != other and set(inodes) & set(theirs):
                assert by[content] is by[other]


def test_contents_are_of_one_family_through_a_third():
    held = {"a": [1, 2], "b": [2, 3], "c": [3, 4], "d": [5], "e": [5], "f": [6]}
    assert families(all_names(held)) == [frozenset("abc"), frozenset("de")]


@given(held=contents, wanted=st.integers(1, 500), pinned=st.sets(st.sampled_from("abcdef")))
@settings(max_examples=300)
def test_what_is_reclaimed_returns_what_is_wanted_and_nothing_goes_without_need(held, wanted, pinned):
    found = [
        candidate(content, bytes=own(full(held[content]), names_of(content, held)), pinned=content in pinned)
        for content in held
    ]
    may_go = [content for content in held if content not in pinned]
    names = [name for content in may_go for name in names_of(content, held)]
    chosen = {one.content for one in choose(found, wanted, groups(names))}

    def back(gone):
        return takes(held) - takes({content: held[content] for content in held if content not in gone})

    assert not chosen & pinned
    assert bool(chosen) == (back(set(may_go)) >= wanted)
    if chosen:
        assert back(chosen) >= wanted
        assert all(back(chosen - {one}) < wanted for one in chosen)


class Families(RuleBasedStateMachine):
    """Contents of one family come, linking what is there, and go; what they are charged with is kept in a ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, list[int]] = {}
        self.charged: dict[str, int] = {}
        self.count = 0

    @rule(inodes=st.lists(st.sampled_from(sorted(FILES)), max_size=8, unique=True))
    def a_content_comes(self, inodes):
        there = {inode for held in self.held.values() for inode in held}
        name, self.count = f"{self.count:03d}", self.count + 1
        self.charged[name] = full(inodes) - sum(FILES[inode] for inode in inodes if inode in there)
        self.held[name] = inodes

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_content_goes(self, data):
        gone = data.draw(st.sampled_from(sorted(self.held)))
        back = returned(full(self.held[gone]), names_of(gone, self.held))
        del self.held[gone]
        left = self.charged.pop(gone) - back
        self.charged |= bequest(self.charged, left)

    @invariant()
    def what_is_charged_is_what_is_there(self):
        assert sum(self.charged.values()) == takes(self.held)

    @invariant()
    def nobody_is_charged_with_less_than_nothing(self):
        assert all(charge >= 0 for charge in self.charged.values())

    @invariant()
    def the_last_one_is_charged_with_all_that_it_takes(self):
        if len(self.held) == 1:
            (name,) = self.held
            assert self.charged == {name: full(self.held[name])}


Families.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestFamilies = Families.TestCase

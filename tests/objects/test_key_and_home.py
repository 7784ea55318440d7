"""Keys of objects, and which node looks after which block."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cached.addresses import Address
from cached.objects.home import home, layout, ranked
from cached.objects.key import ObjectKey
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(max_size=12)
KEYS = st.builds(ObjectKey, TEXT, TEXT, st.integers(0, 200), TEXT)
NODES = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True)


def test_a_key_knows_its_address_and_its_digest_is_a_file_name():
    key = ObjectKey("b", "a/b.txt", 7)
    assert key.address == Address("b", "a/b.txt", 7)
    assert len(key.digest) == 64
    assert set(key.digest) <= set("0123456789abcdef")


@given(KEYS, KEYS)
def test_only_equal_keys_have_equal_digests(one, other):
    assert (one.digest == other.digest) == (one == other)


def test_characters_that_move_from_one_part_to_the_next_change_the_digest():
    keys = [
        ObjectKey("ab", "c", 1),
        ObjectKey("a", "bc", 1),
        ObjectKey("ab", "c1", 1),
        ObjectKey("ab", "c", 11),
    ]
    keys += [ObjectKey("ab", "c", 1, "1"), ObjectKey("ab", "c", 1, "u"), ObjectKey("ab", "cu", 1)]
    assert len({key.digest for key in keys}) == len(keys)


@given(st.integers(0, 10_000), st.integers(1, 700))
def test_blocks_cover_an_object_once_and_in_order(size, block):
    parts = layout(size, block)
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(left[1] == right[0] for left, right in pairwise(parts))
    assert all(0 < stop - start <= block for start, stop in parts) or size == 0
    assert (len(parts) == 1) == (size <= block)


def test_an_empty_object_has_one_empty_block_and_nonsense_is_refused():
    assert layout(0, 8) == [(0, 0)]
    for size, block in ((-1, 8), (1, 0)):
        with pytest.raises(ValueError, match="layout"):
            layout(size, block)


@given(NODES, st.integers(0, 9), st.randoms())
def test_all_nodes_agree_on_the_home_whatever_the_order(nodes, index, random):
    shuffled = list(nodes)
    random.shuffle(shuffled)
    assert ranked("d", index, nodes) == ranked("d", index, shuffled)
    assert home("d", index, shuffled) == ranked("d", index, nodes)[0]


@given(NODES, st.integers(0, 9))
def test_when_a_node_leaves_only_its_own_blocks_move(nodes, index):
    first, *others = ranked("d", index, nodes)
    assert ranked("d", index, others) == others
    for gone in others:
        assert home("d", index, [node for node in nodes if node != gone]) == first


def test_without_nodes_nobody_is_at_home():
    assert home("d", 0, []) is None


def test_blocks_are_spread_over_the_nodes():
    nodes = [f"node{i}" for i in range(8)]
    counts = dict.fromkeys(nodes, 0)
    for index in range(800):
        counts[home("digest", index, nodes)] += 1
    assert all(60 <= count <= 140 for count in counts.values()), counts

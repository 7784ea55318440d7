"""What a content takes on a disk, and what to reserve before it is known."""

from __future__ import annotations

import pytest
from cached.errors import NoSpace
from cached.leases.capacity import BLOCK, CONTENT, ENTRY, Space, estimate, physical
from cached.sets.manifest import Entry, Manifest
from hypothesis import given
from hypothesis import strategies as st


def manifest(sizes, others=0):
    files = [Entry(path=f"f{n}", kind="file", size=size) for n, size in enumerate(sizes)]
    return Manifest(entries=(*files, *(Entry(path=f"d{n}", kind="dir") for n in range(others))))


def test_files_take_whole_blocks_and_each_entry_its_own():
    assert physical(manifest([])) == CONTENT
    assert physical(manifest([0], others=2)) == CONTENT + 3 * ENTRY
    assert physical(manifest([1])) == CONTENT + ENTRY + BLOCK + 1
    assert physical(manifest([BLOCK + 1])) == CONTENT + ENTRY + 2 * BLOCK + 11


@given(sizes=st.lists(st.integers(0, 1 << 40), max_size=50), share=st.floats(0, 1))
def test_a_reservation_made_from_the_sums_is_enough(sizes, share):
    others = int(len(sizes) * share)
    assert estimate(sum(sizes), len(sizes)) >= physical(manifest(sizes, others))


@given(sizes=st.lists(st.integers(1 << 20, 1 << 34), min_size=1, max_size=20))
def test_a_reservation_for_large_files_wastes_little(sizes):
    assert estimate(sum(sizes), len(sizes)) <= 1.02 * sum(sizes) + CONTENT


def test_the_partition_limits_what_the_capacity_allows():
    space = Space(capacity=1_000, floor=100, partition_free=400, committed=300)
    assert (space.limit(), space.free()) == (600, 300)
    with pytest.raises(NoSpace):
        space.reserve(301)
    full = Space(capacity=1_000, floor=100, partition_free=50, committed=300)
    assert (full.limit(), full.free()) == (250, 0)

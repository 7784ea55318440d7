"""How many bytes a range of leaves has."""

from __future__ import annotations

import pytest
from cached.replication.segments import LeafLine
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.lists(st.sampled_from([0, 1, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 100_000]), min_size=1, max_size=8)


def line_of(sizes: list[int]) -> LeafLine:
    return LeafLine(
        Manifest(entries=tuple(Entry(path=f"{n}", kind="file", size=size) for n, size in enumerate(sizes)))
    )


@given(SIZES.filter(any), st.data())
def test_a_range_has_the_bytes_of_the_parts_that_it_stands_for(sizes, data):
    line = line_of(sizes)
    first = data.draw(st.integers(0, line.total - 1))
    end = data.draw(st.integers(first + 1, line.total))
    assert line.bytes_in([(first, end)]) == sum(part.size for part in line.segments([(first, end)]))
    assert line.bytes_in([(0, line.total)]) == sum(sizes)


def test_no_range_has_no_bytes_and_a_wrong_one_is_refused():
    assert line_of([0]).bytes_in([]) == 0
    with pytest.raises(ValueError, match="no leaves"):
        line_of([5]).bytes_in([(0, 2)])

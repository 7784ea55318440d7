from __future__ import annotations

from hashlib import sha256

import libtorrent
import pytest
from cached.sets.merkle import (
    DIGEST,
    LEAF,
    check_leaves,
    damaged_leaves,
    hash_leaves,
    leaf_count,
    piece_layer,
    root_from_leaves,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.one_of(
    st.sampled_from([1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF, 4 * LEAF + 5, 8 * LEAF]),
    st.integers(1, 20 * LEAF),
)


def _bytes(size):
    return (b"cached" * (size // 6 + 1))[: size - 1] + bytes([size % 256])


def _plain_root(leaves):
    """BEP 52 in the most literal way: pad the leaves to a power of two, then halve."""
    row = [leaves[at : at + DIGEST] for at in range(0, len(leaves), DIGEST)]
    while len(row) & (len(row) - 1):
        row.append(bytes(DIGEST))
    while len(row) > 1:
        row = [sha256(left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


@given(SIZES)
@settings(max_examples=40, deadline=None)
def test_the_root_is_the_literal_reading_of_bep_52(size):
    leaves = hash_leaves(_bytes(size))
    assert len(leaves) == leaf_count(size) * DIGEST
    assert root_from_leaves(leaves) == _plain_root(leaves)


def test_an_empty_file_has_neither_leaves_nor_root():
    assert hash_leaves(b"") == b""
    assert root_from_leaves(b"") == b""
    assert check_leaves(b"", 0, b"")


@given(SIZES, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_leaves_of_parts_make_the_leaves_of_the_file(size, leaves_a_part):
    data, step = _bytes(size), leaves_a_part * LEAF
    parts = [hash_leaves(memoryview(data)[at : at + step]) for at in range(0, size, step)]
    assert b"".join(parts) == hash_leaves(bytearray(data))


@pytest.mark.parametrize("size", [1, LEAF, LEAF + 1, 5 * LEAF + 17, 64 * LEAF + 1])
@pytest.mark.parametrize("piece_size", [LEAF, 4 * LEAF])
def test_roots_and_piece_layers_are_libtorrents(tmp_path, size, piece_size):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_bytes(_bytes(size))
    (tmp_path / "set" / "b").write_bytes(b"b")
    files = libtorrent.list_files(str(tmp_path / "set"))
    torrent = libtorrent.create_torrent(files, piece_size, libtorrent.create_torrent.v2_only)
    libtorrent.set_piece_hashes(torrent, str(tmp_path))
    made = torrent.generate()
    leaves = hash_leaves(_bytes(size))
    root = root_from_leaves(leaves)
    assert made[b"info"][b"file tree"][b"a"][b""][b"pieces root"] == root
    assert made[b"piece layers"].get(root, b"") == piece_layer(leaves, piece_size)


@given(SIZES, st.sampled_from([LEAF, 2 * LEAF, 8 * LEAF]))
@settings(max_examples=30, deadline=None)
def test_the_root_over_a_piece_layer_is_the_root_of_the_file(size, piece_size):
    leaves = hash_leaves(_bytes(size))
    layer = piece_layer(leaves, piece_size)
    if size <= piece_size:
        assert layer == b""
        return
    empty = _plain_root(bytes(DIGEST * (piece_size // LEAF)))
    row = [layer[at : at + DIGEST] for at in range(0, len(layer), DIGEST)]
    while len(row) & (len(row) - 1):
        row.append(empty)
    assert _plain_root(b"".join(row)) == root_from_leaves(leaves)


@pytest.mark.parametrize("piece_size", [0, 1000, 3 * LEAF, LEAF // 2])
def test_a_piece_size_that_is_none_is_refused(piece_size):
    with pytest.raises(ValueError, match="power of two"):
        piece_layer(bytes(DIGEST), piece_size)


def test_one_flipped_bit_is_found_where_it_is():
    data = bytearray(_bytes(5 * LEAF + 3))
    leaves = hash_leaves(data)
    assert damaged_leaves(data, leaves) == []
    data[2 * LEAF + 7] ^= 1
    data[5 * LEAF] ^= 1
    assert damaged_leaves(data, leaves) == [2, 5]


def test_missing_and_surplus_bytes_are_damage():
    data = _bytes(3 * LEAF)
    leaves = hash_leaves(data)
    assert damaged_leaves(data[: LEAF + 1], leaves) == [1, 2]
    assert damaged_leaves(data + b"x", leaves) == [3]


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_leaves_with_any_change_do_not_pass(data):
    size = data.draw(SIZES)
    leaves = bytearray(hash_leaves(_bytes(size)))
    root = root_from_leaves(leaves)
    assert check_leaves(leaves, size, root)
    assert not check_leaves(leaves, size + LEAF, root)
    assert not check_leaves(leaves + bytes(DIGEST), size, root)
    leaves[data.draw(st.integers(0, len(leaves) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not check_leaves(leaves, size, root)

from __future__ import annotations

import pytest
from cached.errors import IntegrityFailed
from cached.sets.leaves import LeafIndex, check_all_leaves, decode_mtimes, encode_mtimes, split_leaves
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, LEAF, hash_leaves, root_from_leaves

FILES = {"a": b"x" * (2 * LEAF + 1), "b/empty": b"", "b/one": b"y", "c": b"z" * LEAF}


@pytest.fixture
def manifest():
    return Manifest.build(
        Entry(path=path, kind="file", size=len(data), root=root_from_leaves(hash_leaves(data)))
        for path, data in FILES.items()
    )


@pytest.fixture
def leaves():
    return b"".join(hash_leaves(data) for data in FILES.values())


def test_each_file_finds_its_leaves(manifest, leaves):
    index = LeafIndex(manifest)
    assert index.total == len(leaves)
    assert [index.offset(path) for path in FILES] == [0, 3 * DIGEST, 3 * DIGEST, 4 * DIGEST]
    for path, data in FILES.items():
        assert leaves[index.slice(path)] == hash_leaves(data)
    with pytest.raises(KeyError):
        index.offset("b")


def test_splitting_gives_every_file_its_own_leaves(manifest, leaves):
    parts = {entry.path: bytes(part) for entry, part in split_leaves(manifest, leaves)}
    assert parts == {path: hash_leaves(data) for path, data in FILES.items()}


def test_leaves_that_belong_pass_and_others_are_named(manifest, leaves):
    check_all_leaves(manifest, leaves)
    broken = bytearray(leaves)
    broken[3 * DIGEST] ^= 1
    with pytest.raises(IntegrityFailed, match="b/one"):
        check_all_leaves(manifest, bytes(broken))
    with pytest.raises(IntegrityFailed, match="length"):
        check_all_leaves(manifest, leaves[:-1])


def test_modification_times_read_back_for_every_entry(manifest):
    times = [0, -1, 2**62, 1_700_000_000_123_456_789, 5]
    written = encode_mtimes(times)
    assert written[8:16] == b"\xff" * 8
    assert written[32:40] == (5).to_bytes(8, "little")
    assert decode_mtimes(written, manifest) == times


def test_modification_times_of_another_manifest_are_refused(manifest):
    with pytest.raises(IntegrityFailed):
        decode_mtimes(bytes(8), manifest)

"""Leaves made from the bytes that have come: the same as those of whoever created the content, or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random

import pytest
from cached.errors import IntegrityFailed
from cached.sets import coarse as coarsely
from cached.sets import manifest as manifests
from cached.sets.coarse import SPAN, Coarse
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF, hash_leaves, root_from_leaves
from cached.storage.disk import Store
from cached.storage.leafmaker import LeafMaker
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.one_of(
    st.integers(0, 3 * SPAN),
    st.sampled_from([LEAF, LEAF + 1, SPAN - 1, SPAN, SPAN + 1, 5 * SPAN, 17 * SPAN + 1]),
)


def content(files: dict[str, bytes]) -> tuple[Manifest, bytes, Coarse]:
    leaves = {path: hash_leaves(data) for path, data in files.items()}
    manifest = Manifest.build(
        [
            Entry(path=path, kind="file", size=len(data), root=root_from_leaves(leaves[path]))
            for path, data in files.items()
        ]
    )
    joined = b"".join(leaves[entry.path] for entry in manifest.files())
    return manifest, joined, coarsely.coarse(manifest, joined)


def store_in(folder: str) -> Store:
    store = Store(Path(folder) / "store", headroom=0)
    store.open_lock()
    return store


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 2**32), st.integers(0, 3))
def test_leaves_made_beside_and_at_the_end_are_those_of_the_bytes(sizes, seed, pieces_per_step):
    random = Random(seed)
    files = {f"f{number}": random.randbytes(size) for number, size in enumerate(sizes)}
    manifest, leaves, coarse = content(files)
    coarsely.check(manifest, coarse)
    assert len(coarse.digests) <= coarsely.longest(manifest.total_bytes)
    with tempfile.TemporaryDirectory() as folder, store_in(folder).stage("tx") as staging:
        staging.prepare(manifest)
        maker = LeafMaker(staging, manifest, coarse)
        extents = [
            (path, at, min(at + 2 * SPAN, len(data)))
            for path, data in files.items()
            for at in range(0, len(data), 2 * SPAN)
        ]
        random.shuffle(extents)
        for number, (path, start, end) in enumerate(extents):
            with (staging.data / path).open("r+b" if (staging.data / path).exists() else "w+b") as file:
                file.seek(start)
                if number % 3 == 2:
                    maker.note([(path, start, end)])  # told before it is in its file
                    maker.make()
                file.write(files[path][start:end])
            if number % 3 == 0:
                maker.note([(path, start, end)])
            if pieces_per_step and number % pieces_per_step == 0:
                maker.make()
        maker.finish()
        maker.close()
        assert staging.digests() == leaves


def test_leaves_that_are_right_are_taken_and_their_bytes_not_read(store, monkeypatch):
    files = {"large": os.urandom(5 * SPAN + 9), "middle": os.urandom(LEAF + 1), "small": b"x"}
    manifest, leaves, coarse = content(files)
    with store.stage("tx") as staging:
        staging.prepare(manifest)
        for path, data in files.items():
            (staging.data / path).write_bytes(data)
        maker, read, reads = LeafMaker(staging, manifest, coarse), LeafMaker._read, []

        def reading(self, entry, start, end):
            reads.append((entry.path, start, end))
            return read(self, entry, start, end)

        monkeypatch.setattr(LeafMaker, "_read", reading)
        maker.put("middle", 0, hash_leaves(files["middle"]))
        maker.put("large", 2 * SPAN, hash_leaves(files["large"][2 * SPAN :]))
        maker.put("large", 0, bytes(32) + hash_leaves(files["large"][LEAF:SPAN]))
        maker.put("large", LEAF, hash_leaves(files["large"][LEAF : 2 * SPAN]))
        maker.put("none", 0, bytes(32))
        maker.note([("large", 3 * SPAN, 5 * SPAN), ("middle", 0, LEAF + 1)])
        maker.make()
        maker.finish()
        maker.close()
        maker.put("large", 0, hash_leaves(files["large"]))
        assert reads == [("large", 0, 2 * SPAN)]
        assert staging.leaves() == leaves


@pytest.mark.parametrize("size", [LEAF + 1, SPAN, 3 * SPAN + 5])
@pytest.mark.parametrize("damage", ["flipped", "short", "absent"])
def test_what_is_not_what_the_digests_say_gets_no_leaves(store, size, damage):
    data = os.urandom(size)
    manifest, _, coarse = content({"f": data})
    with store.stage("tx") as staging:
        staging.prepare(manifest)
        staging.seal(manifests.encode(manifest), coarse)
        assert staging.digests() == coarse
        wrong = data[:-1] + bytes([data[-1] ^ 1]) if damage == "flipped" else data[:LEAF]
        if damage != "absent":
            (staging.data / "f").write_bytes(wrong)
        maker = LeafMaker(staging, manifest, coarse)
        maker.note([("f", 0, size)])
        maker.make()
        with pytest.raises(IntegrityFailed, match="'f'"):
            maker.finish()
        maker.close()
        assert not (staging.path / "leaves").exists()


def test_digests_of_another_content_are_told_by_their_length_and_by_their_roots():
    manifest, _, coarse = content({"f": os.urandom(2 * SPAN)})
    for wrong in (coarse.digests[:-32], bytes(64)):
        with pytest.raises(IntegrityFailed):
            coarsely.check(manifest, Coarse(wrong))


def test_what_a_crash_left_of_kept_coarse_digests_is_not_taken_for_them():
    coarse = Coarse(os.urandom(64))
    assert Coarse.kept(coarse.to_keep()) == coarse
    assert Coarse.kept(coarse.to_keep()[:-1]) is None
    assert Coarse.kept(None) is None
    assert Coarse.kept(b"") is None

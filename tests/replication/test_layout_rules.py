from __future__ import annotations

import dataclasses
import warnings

import libtorrent as lt
import pytest
from cached.errors import IntegrityFailed
from cached.replication import layout, pack
from cached.replication.segments import LeafLine, after, merged
from cached.sets.coarse import Coarse, coarse
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import leaf_count
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.replication.swarm_kit import job_for, make_content, same

PIECE = 64 * 1024


def hash_by_libtorrent(root, names, piece):
    """The info-hash that libtorrent itself computes from real files under `root`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        files = lt.file_storage()
        for name in names:
            files.add_file(name, (root / name).stat().st_size)
        torrent = lt.create_torrent(files, piece, lt.create_torrent.v2_only)
        torrent.set_priv(True)
        lt.set_piece_hashes(torrent, str(root))
        return str(lt.torrent_info(torrent.generate()).info_hashes().v2)


def laid_out(content, piece, scratch):
    packed = None
    if layout.pack_bytes(content.manifest):
        packed = pack.make(content.data, content.manifest, scratch / "pack", piece)
    made = layout.build(content.id, content.manifest, content.leaves, piece, packed)
    digests = coarse(content.manifest, content.leaves)
    assert layout.build(content.id, content.manifest, digests, piece, packed) == made
    return made


@pytest.mark.parametrize("piece", [PIECE, 2 * PIECE, 16 * PIECE])
@pytest.mark.parametrize(
    "sizes",
    [
        {"a": 3 * PIECE + 5, "b/c": PIECE, "b/ö": 100_000, "z": 1 << 20},
        {"only": 1_000_001},
        {"big": 300_000, "small": 5, "small2": 20_000, "none": 0},
        {"tiny": 1, "tinier": 30_000},
    ],
)
def test_the_info_hash_is_what_libtorrent_makes_of_the_same_files(tmp_path, sizes, piece):
    content = make_content(tmp_path / "src", sizes)
    made = laid_out(content, piece, tmp_path)
    real = tmp_path / "real"
    (real / content.id).parent.mkdir(parents=True)
    names = [content.id] if len(made.files) == 1 else [f"{content.id}/{file.name}" for file in made.files]
    for file, name in zip(made.files, names, strict=True):
        (real / name).parent.mkdir(exist_ok=True)
        (real / name).symlink_to(content.data / file.path if file.path else tmp_path / "pack")
    assert made.info_hash == hash_by_libtorrent(real, names, piece)


@pytest.mark.parametrize("sizes", [{"a": 3 * PIECE + 5, "b": PIECE, "c": 7}, {"only": PIECE + 1}])
def test_libtorrent_reads_the_torrent_as_we_lay_it_out(tmp_path, sizes):
    made = laid_out(make_content(tmp_path / "src", sizes), PIECE, tmp_path)
    info = lt.load_torrent_buffer(made.torrent).ti
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        files = info.files()
    pads = lt.file_storage.flag_pad_file
    real = [index for index in range(files.num_files()) if not files.file_flags(index) & pads]
    assert real == list(made.file_paths)
    assert [files.file_size(index) for index in real] == [file.size for file in made.files]
    assert info.num_pieces() == len(made.piece_sizes)
    assert info.priv()


def test_many_tiny_files_are_few_pieces_and_come_out_of_the_pack_unchanged(tmp_path):
    content = make_content(tmp_path / "src", {f"d{i % 9}/f{i}": i * 11 for i in range(1000)})
    made = laid_out(content, PIECE, tmp_path)
    assert [file.path for file in made.files] == [""]
    assert len(made.piece_sizes) == -(-layout.pack_bytes(content.manifest) // PIECE)
    times = {f"d{i % 9}/f{i}": 1_500_000_000_000_000_000 + i for i in range(1, 999)}
    job = dataclasses.replace(job_for(content, tmp_path / "dst", PIECE), times=times)
    pack.unpack(tmp_path / "pack", job, pack.batches(job.manifest))
    assert same(content, job.data)
    assert job.made == set(times)
    assert {path: (job.data / path).stat().st_mtime_ns for path in times} == times


def test_a_pack_with_wrong_bytes_is_refused(tmp_path):
    content = make_content(tmp_path / "src", {"a": 1000, "b": 2000})
    laid_out(content, PIECE, tmp_path)
    data = bytearray((tmp_path / "pack").read_bytes())
    data[1500] ^= 1
    (tmp_path / "pack").write_bytes(data)
    job = job_for(content, tmp_path / "dst", PIECE)
    with pytest.raises(IntegrityFailed, match="'b'"):
        pack.unpack(tmp_path / "pack", job, pack.batches(job.manifest))


def test_a_pack_is_not_made_of_files_that_have_changed(tmp_path):
    content = make_content(tmp_path / "src", {"a": 1000})
    (content.data / "a").write_bytes(bytes(1000))
    with pytest.raises(IntegrityFailed):
        pack.make(content.data, content.manifest, tmp_path / "pack", PIECE)
    assert not list(tmp_path.glob("*pack*"))


def test_leaves_that_do_not_fit_are_refused(tmp_path):
    content = make_content(tmp_path / "src", {"a": 10 * PIECE})
    for wrong in (content.leaves[:-32], content.leaves + bytes(32), bytes(32) + content.leaves[32:]):
        with pytest.raises(IntegrityFailed):
            layout.build(content.id, content.manifest, wrong, PIECE, None)
    right = coarse(content.manifest, content.leaves).digests
    for wrong in (right[:-32], right + bytes(32), bytes(32) + right[32:]):
        with pytest.raises(IntegrityFailed):
            layout.build(content.id, content.manifest, Coarse(wrong), PIECE, None)
    small = make_content(tmp_path / "small", {"a": 10})
    with pytest.raises(IntegrityFailed, match="pack"):
        layout.build(small.id, small.manifest, small.leaves, PIECE, None)


def test_a_content_without_bytes_has_no_torrent(tmp_path):
    content = make_content(tmp_path / "src", {"empty": 0})
    made = laid_out(content, PIECE, tmp_path)
    assert (made.files, made.info_hash, made.piece_sizes) == ((), "", ())


@given(st.integers(0, 1 << 45), st.integers(1, 200))
def test_piece_sizes_are_powers_of_two_and_keep_the_number_of_pieces_sane(total, receivers):
    size = layout.piece_size(total, receivers)
    assert size & (size - 1) == 0
    assert 64 * 1024 <= size <= 128 * 1024 * 1024
    assert size == 128 * 1024 * 1024 or -(-total // size) <= 32_768
    assert size <= 1024 * 1024 or total // (size // 2) >= 32_768


def test_piece_sizes_follow_the_measured_rule():
    mib = 1024 * 1024
    assert layout.piece_size(48 * mib, 10) == 64 * 1024
    assert layout.piece_size(300 * mib, 10) == 64 * 1024
    assert layout.piece_size(15_000 * mib, 10) == mib
    assert layout.piece_size(200_000 * mib, 10) == 8 * mib


def lines(sizes: list[int]) -> LeafLine:
    entries = tuple(Entry(path=f"{i:04d}", kind="file", size=size) for i, size in enumerate(sizes))
    return LeafLine(Manifest(entries=entries))


SIZES = st.lists(st.integers(0, 100_000), max_size=20)


@settings(max_examples=60)
@given(SIZES, st.data())
def test_segments_cover_exactly_the_leaves_asked_for(sizes, data):
    line = lines(sizes)
    assert line.total == sum(map(leaf_count, sizes))
    bounds = sorted(data.draw(st.sets(st.integers(0, line.total), max_size=6)))
    ranges = merged(zip(bounds[::2], bounds[1::2], strict=False))
    segments = list(line.segments(ranges))
    covered = [leaf for segment in segments for leaf in range(segment.leaf, segment.end)]
    assert covered == [leaf for first, end in ranges for leaf in range(first, end)]
    for segment in segments:
        assert segment.size > 0
        assert segment.offset + segment.size <= sizes[int(segment.path)]
    assert line.bytes_in([(0, line.total)] if line.total else []) == sum(sizes)


@given(st.integers(1, 50), st.data())
def test_what_is_left_after_a_leaf_is_the_rest(total, data):
    at = data.draw(st.integers(0, total))
    rest = after([(0, total)], at)
    assert rest == ([(at, total)] if at < total else [])


@pytest.mark.parametrize("ranges", [[(0, 0)], [(-1, 1)], [(0, 99)], [(3, 2)]])
def test_nonsense_ranges_are_refused(ranges):
    with pytest.raises(ValueError, match="no leaves"):
        list(lines([100_000]).segments(ranges))

"""Dumps: what goes in comes out, in views of shared memory that nobody can write to."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import struct
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cached.client.pickled import ALIGNMENT, load_from, load_view, pickled, write
from cached.errors import IntegrityFailed, UsageError
from hypothesis import given
from hypothesis import strategies as st


class Column:
    """What Arrow does with its buffers, in small: pickled by reference, rebuilt over whatever buffer it gets."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Column, (pickle.PickleBuffer(self.data),)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "dump", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def dump_to(obj: Any, descriptor: int) -> int:
    parts, size = pickled(obj)
    assert write(descriptor, parts) == size
    return size


def round_trip(obj: Any) -> Any:
    with tempfile.TemporaryFile() as file:
        return load_from(file.fileno(), dump_to(obj, file.fileno()))


values = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values, st.lists(st.binary(max_size=300)))
def test_what_is_dumped_is_loaded(plain, blobs):
    loaded, columns = round_trip((plain, [Column(bytearray(blob)) for blob in blobs]))
    assert loaded == plain
    assert [bytes(column.data) for column in columns] == blobs


@given(st.lists(st.integers(0, 1000), max_size=1200))
def test_every_buffer_begins_at_a_multiple_of_64(sizes):
    with tempfile.TemporaryFile() as file:
        size = dump_to([Column(bytearray(each)) for each in sizes], file.fileno())
        data = file.read()
    head = struct.unpack_from("<8sQQQQQ16x", data)
    assert head[0] == b"cachedpk"
    assert head[1:3] == (1, size)
    assert head[3] % ALIGNMENT == 0
    assert head[5] == len(sizes)
    table = struct.iter_unpack("<QQ", data[64 : 64 + 16 * len(sizes)])
    for (at, length), wanted in zip(table, sizes, strict=True):
        assert at % ALIGNMENT == 0
        assert length == wanted
        assert at + length <= size == len(data)


def test_an_array_comes_back_as_a_read_only_view_of_the_file(file):
    array = np.arange(100_000, dtype=np.int64).reshape(100, 1000)
    size = dump_to({"x": array, "f": np.asfortranarray(array[:, :7]), "none": np.zeros(0)}, file)
    loaded = load_from(file, size)
    assert (loaded["x"] == array).all()
    assert (loaded["f"] == array[:, :7]).all()
    assert loaded["none"].size == 0
    with pytest.raises(ValueError, match="read-only"):
        loaded["x"][0, 0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        loaded["x"].flags.writeable = True
    # It is the file's own memory: what is written there shows, so nothing was copied.
    at = os.pread(file, size, 0).index(array.tobytes())
    os.pwrite(file, struct.pack("<q", 4711), at)
    assert loaded["x"][0, 0] == 4711
    assert loaded["x"].ctypes.data % ALIGNMENT == 0


def test_views_live_on_without_the_descriptor_and_the_map_goes_with_the_last(tmp_path, monkeypatch):
    maps: list[weakref.ref[Any]] = []

    class Watched(mmap.mmap):
        def __new__(cls, *args: Any, **settings: Any) -> Any:
            made = super().__new__(cls, *args, **settings)
            maps.append(weakref.ref(made))
            return made

    monkeypatch.setattr(mmap, "mmap", Watched)
    with (tmp_path / "dump").open("w+b") as file:
        size = dump_to([np.arange(1000), np.ones(5)], file.fileno())
        first, second = load_from(file.fileno(), size)
    os.unlink(tmp_path / "dump")
    del first
    gc.collect()
    assert maps[0]() is not None
    assert second.sum() == 5
    part = second[1:3]
    del second
    gc.collect()
    assert part.sum() == 2
    del part
    gc.collect()
    assert maps[0]() is None


def test_an_array_that_is_not_contiguous_is_dumped_all_the_same():
    array = np.arange(100).reshape(10, 10)[::2, ::3]
    assert (round_trip(array) == array).all()


def test_what_cannot_be_pickled_says_so(file):
    for thing in (lambda: 0, (each for each in ()), Column(memoryview(b"abcdef")[::2])):
        with pytest.raises(UsageError, match="cannot be pickled"):
            dump_to(thing, file)


def fields(**changes: Any) -> bytes:
    known = {"magic": b"cachedpk", "version": 1, "length": 192, "start": 128, "count": 2, "buffers": 1}
    known |= changes
    head = struct.pack("<8sQQQQQ16x", *known.values())
    table = struct.pack("<QQ", *changes.pop("entry", (128, 0))) if "entry" not in changes else b""
    return (head + table).ljust(128, b"\0") + b"N.".ljust(64, b"\0")


def test_the_dump_that_the_refusals_start_from_is_one():
    assert load_view(memoryview(fields())) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"cachedpX"},
        {"length": 191},
        {"length": 2**63},
        {"start": 64 * 3 + 1},
        {"start": 0},
        {"start": 2**64 - 64},
        {"count": 65},
        {"count": 2**64 - 1},
        {"buffers": 2**60},
        {"buffers": 9},
    ],
)
def test_a_file_that_is_no_dump_is_refused_before_anything_is_unpickled(changes, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *_args, **_settings: pytest.fail("unpickled"))
    with pytest.raises(IntegrityFailed, match="no dump"):
        load_view(memoryview(fields(**changes)))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_nothing_else(data):
    with pytest.raises(IntegrityFailed):
        load_view(memoryview(data))


def test_a_dump_of_a_later_version_says_what_to_do():
    with pytest.raises(UsageError, match="version 2"):
        load_view(memoryview(fields(version=2)))

"""Large reads by several threads give what plain reads give."""

from __future__ import annotations

import io
import os

import pytest
from cached.client import bulk
from cached.client.bulk import CopyFile, read_into
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def small_shares(monkeypatch):
    monkeypatch.setattr(bulk, "SHARE", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def opened(tmp_path, data):
    path = tmp_path / "copy"
    path.write_bytes(data)
    return io.BufferedReader(CopyFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), lambda: None))


@pytest.mark.parametrize("size", [0, 1, 999, 2000, 4001, 100_000])
def test_a_buffer_is_filled_with_all_bytes_and_the_file_is_at_its_end_then(tmp_path, small_shares, size):
    data = os.urandom(size)
    buffer = bytearray(size + 10)
    with opened(tmp_path, data) as file:
        assert file.readinto(buffer) == size
        assert buffer[:size] == data
        assert file.tell() == size
        assert file.read() == b""


def test_reads_of_all_sizes_follow_each_other(tmp_path, small_shares):
    data = os.urandom(200_000)
    with opened(tmp_path, data) as file:
        found = [file.read(10), file.read(50_000), file.read(3), file.read(90_000), file.read()]
        assert b"".join(found) == data
        file.seek(70_000)
        assert file.read(100_000) == data[70_000:170_000]


def test_a_wide_buffer_is_filled_as_bytes(tmp_path, small_shares):
    import array

    numbers = array.array("q", range(5000))
    target = array.array("q", [0] * 5000)
    with opened(tmp_path, numbers.tobytes()) as file:
        assert file.readinto(target) == 40_000
    assert target == numbers


def test_several_threads_are_used_for_a_large_buffer_only(tmp_path, small_shares, monkeypatch):
    used = []

    def counted(descriptor, view, start, threads):
        used.append(threads)
        return read_into(descriptor, view, start, threads)

    monkeypatch.setattr(bulk, "read_into", counted)
    with opened(tmp_path, os.urandom(50_000)) as file:
        file.raw.readinto(bytearray(1999))
        file.raw.readinto(bytearray(2000))
        file.raw.readinto(bytearray(40_000))
    assert used == [2, 4]


def test_an_error_of_any_thread_is_raised(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(IsADirectoryError):
            read_into(descriptor, memoryview(bytearray(8000)), 0, 4)
    finally:
        os.close(descriptor)


@given(
    size=st.integers(0, 300), start=st.integers(0, 350), wanted=st.integers(0, 300), threads=st.integers(1, 5)
)
def test_what_lies_behind_a_gap_does_not_count(tmp_path_factory, size, start, wanted, threads):
    data = bytes(number % 251 for number in range(size))
    path = tmp_path_factory.getbasetemp() / "bulk"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        buffer = bytearray(wanted)
        came = read_into(descriptor, memoryview(buffer), start, threads)
    finally:
        os.close(descriptor)
    assert buffer[:came] == data[start : start + wanted]
    assert came == len(data[start : start + wanted])

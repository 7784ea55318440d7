"""Files of objects: allocated first, whole when they have their name, gone when they should be."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cached.errors import IntegrityFailed, NoSpace, NotFound, UsageError
from cached.storage.objects import ObjectStore

NAME = "a1" * 32
BLOCK = f"{NAME}.3"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "tier")


def fill(store: ObjectStore, name: str, data: bytes) -> None:
    writing = store.create(name, len(data))
    writing.write(data, 0)
    store.seal(writing)


def read(fd: int) -> bytes:
    try:
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)


def test_a_file_has_all_its_blocks_before_it_is_filled_and_nobody_sees_it(store):
    writing = store.create(NAME, 1_000_000)
    assert writing.allocated >= 1_000_000
    assert os.fstat(writing.fd).st_blocks * 512 == writing.allocated
    with pytest.raises(NotFound):
        store.open(NAME)
    writing.write(b"x" * 1_000_000, 0)
    found = store.seal(writing)
    assert (found.size, found.allocated) == (1_000_000, writing.allocated)
    assert store.survey() == {NAME: found}
    assert writing.fd == -1


def test_sealed_files_are_read_only_in_a_directory_of_the_daemon_alone(store):
    fill(store, BLOCK, b"bytes")
    assert stat.S_IMODE((store.path / BLOCK).stat().st_mode) == 0o444
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    fd = store.open(BLOCK)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"y")
    assert read(fd) == b"bytes"


def test_an_open_file_is_read_to_the_end_after_it_was_removed(store):
    fill(store, NAME, b"bytes")
    fd = store.open(NAME)
    assert store.remove(NAME)
    assert not store.remove(NAME)
    assert read(fd) == b"bytes"
    assert os.listdir(store.path) == []


def test_a_retired_name_is_free_at_once(store):
    fill(store, NAME, b"old")
    doomed = store.retire(NAME)
    fill(store, NAME, b"new")
    store.erase(doomed)
    store.erase(doomed)
    assert read(store.open(NAME)) == b"new"
    assert store.retire(BLOCK) is None


def test_empty_objects_are_files_too(store):
    fill(store, NAME, b"")
    assert read(store.open(NAME)) == b""


def test_a_file_that_is_not_as_long_as_it_should_be_is_not_sealed(store):
    writing = store.create(NAME, 10)
    os.ftruncate(writing.fd, 9)
    with pytest.raises(IntegrityFailed):
        store.seal(writing)
    assert os.listdir(store.path) == []


def test_a_full_file_system_shows_before_a_byte_is_written_and_leaves_nothing(store, monkeypatch):
    given = []

    def allocate(fd: int, start: int, length: int) -> None:
        given.append((start, length))
        if len(given) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with pytest.raises(NoSpace):
        store.create(NAME, 1 << 40)
    assert len(given) == 3
    assert given[1][0] == given[0][1]
    assert os.listdir(store.path) == []


def test_copies_are_made_between_tiers_and_a_source_that_ends_early_is_noticed(store, tmp_path):
    other = ObjectStore(tmp_path / "other")
    data = os.urandom(300_001)
    fill(store, NAME, data)
    fd = store.open(NAME)
    other.seal(other.copy(fd, NAME, len(data)))
    assert read(other.open(NAME)) == data
    with pytest.raises(IntegrityFailed):
        other.copy(fd, BLOCK, len(data) + 1)
    os.close(fd)
    assert os.listdir(other.path) == [NAME]


def test_a_survey_finds_what_is_sealed_and_removes_what_is_not(store):
    fill(store, NAME, b"bytes")
    left = store.create(BLOCK, 5)
    left.close()
    (store.path / "stranger").write_text("not ours")
    (store.path / ("b2" * 32)).symlink_to("stranger")
    assert list(store.survey()) == [NAME]
    assert sorted(os.listdir(store.path)) == [NAME, "b2" * 32, "stranger"]


@pytest.mark.parametrize("name", ["", "../x", "a" * 63, "A1" * 32, f"{NAME}.", f"{NAME}.x", f"{NAME}/x"])
def test_only_names_of_copies_are_names(store, name):
    for call in (store.open, store.remove, lambda name: store.create(name, 1)):
        with pytest.raises(UsageError):
            call(name)


KILLED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cached import faults
from cached.storage.objects import ObjectStore
faults.arm(sys.argv[2] + ":kill")
store = ObjectStore(Path(sys.argv[1]))
writing = store.create(sys.argv[3], 5)
writing.write(b"bytes", 0)
store.seal(writing)
"""


@pytest.mark.parametrize("point", ["objects.created", "objects.sealed"])
def test_after_a_kill_nothing_unfinished_has_a_name_or_stays(store, point):
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.path.parent), point, NAME], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(store.path)) == 1
    assert store.survey() == {}
    assert os.listdir(store.path) == []


RACING = """
import os, sys, threading
from pathlib import Path
from cached.storage.objects import ObjectStore
store, name = ObjectStore(Path(sys.argv[1])), "a" * 64
store.seal(store.create(name, 100))
over = threading.Event()
def look():
    while not over.is_set():
        store.is_open(name)
looking = threading.Thread(target=look)
looking.start()
for _ in range(20_000):
    os.close(store.open(name))
over.set()
looking.join()
assert not store.is_open(name)
fd = store.open(name)
assert store.is_open(name)
print("well")
"""


def test_looking_whether_a_file_is_open_harms_nobody_who_opens_it_at_that_moment(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", RACING, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert ended.stdout == "well\n"


def test_two_looks_at_a_file_at_once_never_take_each_other_for_a_reader(store):
    fill(store, NAME, b"x")
    with ThreadPoolExecutor(4) as threads:
        looks = threads.map(lambda _: store.is_open(NAME), range(20_000))
        assert not any(looks)

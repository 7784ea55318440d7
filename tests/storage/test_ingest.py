from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cached import faults
from cached.errors import (
    BadName,
    Busy,
    CachedError,
    IntegrityFailed,
    NoSpace,
    SourceChanged,
    UnsupportedFile,
    UsageError,
)
from cached.sets import manifest as manifests
from cached.sets.merkle import hash_leaves, root_from_leaves
from cached.storage import beneath, copying, files
from cached.storage.ballast import Ballast
from cached.storage.disk import Store
from cached.storage.ingest import Ingest


def staged(store: Store, path: str) -> Path:
    return store.root / "incoming/tx/data" / path


@pytest.mark.parametrize(
    "size", [0, 1, 16_384, 16_385, copying.BUFFER - 1, copying.BUFFER, 2 * copying.BUFFER + 5]
)
def test_bytes_leaves_and_root_of_every_size_agree(store, work, opened, size):
    data = os.urandom(size)
    work.add_file("f", opened(data), size)
    manifest, content = work.seal()
    (entry,) = manifest.files()
    assert entry.root == root_from_leaves(hash_leaves(data))
    assert (work.bytes_done, work.files_done) == (size, 1)
    assert store.publish("tx", content)
    assert (store.data(content) / "f").read_bytes() == data
    assert store.leaves(content) == hash_leaves(data)
    assert manifests.content_id(store.manifest_bytes(content)) == content


def test_leaves_lie_in_canonical_order_whatever_order_files_came_in(store, work, opened):
    bodies = {name: os.urandom(20_000) for name in ("z", "b/c", "a")}
    for name, body in bodies.items():
        work.add_file(name, opened(body, name.replace("/", "-")), len(body))
    manifest, content = work.seal()
    store.publish("tx", content)
    assert store.leaves(content) == b"".join(hash_leaves(bodies[name]) for name in sorted(bodies))
    copying.check_leaves(manifest, store.leaves(content))
    with pytest.raises(IntegrityFailed, match="'z'"):
        copying.check_leaves(manifest, store.leaves(content)[:-1] + b"?")


def test_many_threads_may_add_files_at_once(store, work, roomy):
    def add(number: int) -> None:
        path = roomy / f"s{number}"
        path.write_bytes(b"%d" % number * 1000)
        with path.open("rb") as file:
            work.add_file(f"d{number % 7}/x/{number}", file.fileno(), path.stat().st_size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    manifest, content = work.seal()
    store.publish("tx", content)
    assert (manifest.file_count, work.files_done) == (200, 200)
    assert (store.data(content) / "d3/x/10").read_bytes() == b"10" * 1000


def test_a_file_of_another_size_than_announced_has_changed(work, opened):
    with pytest.raises(SourceChanged):
        work.add_file("f", opened(b"12345"), 4)


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_WRONLY])
def test_a_descriptor_that_cannot_be_read_from_is_a_usage_error(work, roomy, flags):
    (roomy / "source").write_bytes(b"12345")
    fd = os.open(roomy / "source", flags)
    try:
        with pytest.raises(UsageError, match="'f'"):
            work.add_file("f", fd, 5)
    finally:
        os.close(fd)


def test_a_file_that_says_it_is_empty_and_is_not_is_refused(work):
    with open("/proc/self/status", "rb") as file, pytest.raises(UnsupportedFile) as caught:
        work.add_file("status", file.fileno(), 0)
    assert caught.value.details["path"] == "status"


@pytest.mark.parametrize("clones", [False, True])
def test_a_file_that_ends_early_is_named(work, opened, monkeypatch, clones):
    def clone(_source: int, goal: int) -> bool:
        os.ftruncate(goal, 5)
        return clones

    read = os.preadv
    monkeypatch.setattr(copying, "clone", clone)
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, views, at) if at else 0)
    with pytest.raises(SourceChanged, match="'f'") as caught:
        work.add_file("f", opened(b"12345"), 5)
    assert caught.value.details["path"] == "f"


def _dir(work, path, _fd):
    work.add_dir(path)


def _link(work, path, _fd):
    work.add_link(path, "x")


def _file(work, path, fd):
    work.add_file(path, fd, 1)


@pytest.mark.parametrize("below", [_dir, _link, _file])
@pytest.mark.parametrize("above", [_link, _file])
@pytest.mark.parametrize("openat2", [True, False])
def test_nothing_is_below_a_file_or_a_link(work, opened, monkeypatch, above, below, openat2):
    if not openat2:
        monkeypatch.setattr(beneath, "_has_openat2", lambda: False)
    fd = opened(b"1")
    above(work, "a", fd)
    for path in ("a/b", "a/b/c"):
        with pytest.raises(BadName, match=path):
            below(work, path, fd)


@pytest.mark.parametrize("above", [_link, _file])
@pytest.mark.parametrize("below", [_dir, _link, _file])
def test_what_has_something_below_it_is_no_file_and_no_link(work, opened, above, below):
    fd = opened(b"1")
    below(work, "a/b", fd)
    with pytest.raises(BadName, match="'a'"):
        above(work, "a", fd)


@pytest.mark.parametrize("change", [b"grown longer", b"1234X", b"1"])
def test_a_file_that_changes_while_it_is_read_is_refused(work, opened, roomy, monkeypatch, change):
    fd = opened(b"12345")
    os.utime(roomy / "source", ns=(1, 1))
    read = copying.read_shared

    def read_and_change(*args, **keywords):
        (roomy / "source").write_bytes(change)
        return read(*args, **keywords)

    monkeypatch.setattr(copying, "read_shared", read_and_change)
    with pytest.raises(SourceChanged):
        work.add_file("f", fd, 5)


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("size", [2 << 20, (3 << 20) + 5, (4 << 20) - 1])
def test_a_large_file_is_the_same_whether_one_thread_makes_it_or_two(
    store, work, opened, monkeypatch, size, at_once
):
    monkeypatch.setattr(copying, "_AT_ONCE", at_once)
    monkeypatch.setattr(copying, "SHARED", 2 << 20)
    monkeypatch.setattr(copying, "AHEAD", 1 << 20)
    data = os.urandom(size)
    work.add_file("f", opened(data), size)
    _, content = work.seal()
    store.publish("tx", content)
    assert (store.data(content) / "f").read_bytes() == data
    assert store.leaves(content) == hash_leaves(data)
    assert work.bytes_done == size


def test_a_large_file_whose_second_half_ends_early_is_refused(work, opened, roomy, monkeypatch):
    monkeypatch.setattr(copying, "_AT_ONCE", 2)
    monkeypatch.setattr(copying, "SHARED", 2 << 20)
    fd, report = opened(bytes(4 << 20)), work._report

    def cut_short(count: int) -> None:
        os.truncate(roomy / "source", (2 << 20) + 1)
        report(count)

    monkeypatch.setattr(work, "_report", cut_short)
    with pytest.raises(SourceChanged, match="'f'"):
        work.add_file("f", fd, 4 << 20)


def test_a_clone_is_hashed_instead_of_the_source(store, work, opened, monkeypatch):
    def clone(source: int, goal: int) -> bool:
        return os.copy_file_range(source, goal, 99_999, 0, 0) > 0

    monkeypatch.setattr(copying, "clone", clone)
    work.add_file("f", opened(b"c" * 99_999), 99_999)
    _, content = work.seal()
    store.publish("tx", content)
    assert store.leaves(content) == hash_leaves(b"c" * 99_999)


def test_no_byte_is_written_beyond_the_reservation(store, opened):
    work = Ingest(store, "tx", max_bytes=10, max_entries=3)
    work.add_file("a", opened(b"123456"), 6)
    with pytest.raises(NoSpace) as caught:
        work.add_file("b", opened(b"12345", "s2"), 5)
    assert caught.value.details["bytes_free"] == 10
    assert not staged(store, "b").exists()
    work.add_dir("d")
    work.add_link("l", "a")
    with pytest.raises(NoSpace, match="3 entries"):
        work.add_dir("e")
    work.close()


def test_blocks_set_aside_are_given_back_before_bytes_are_written(store, work, opened):
    work.staging.ballast = Ballast(work.staging.path / "ballast", 1_000_000)
    work.add_file("f", opened(b"x" * 400_000), 400_000)
    assert work.staging.ballast.left == 600_000
    _, content = work.seal()
    store.publish("tx", content)
    assert not (store.home(content) / "ballast").exists()
    work.staging.ballast.drop()


def test_only_regular_files_with_fit_names_come_in(work, opened, roomy):
    reader, writer = os.pipe()
    with pytest.raises(UnsupportedFile):
        work.add_file("pipe", reader, 0)
    os.close(reader)
    os.close(writer)
    folder = os.open(roomy, os.O_RDONLY)
    with pytest.raises(UnsupportedFile):
        work.add_file("dir", folder, 0)
    os.close(folder)
    fd = opened(b"1")
    for path in ("../x", "/x", "a//b", ".", "a\nb", "n" * 256, ""):
        with pytest.raises(BadName):
            work.add_file(path, fd, 1)
    work.add_file("f", fd, 1)
    with pytest.raises(BadName, match="twice"):
        work.add_file("f", fd, 1)
    for target in ("/etc/passwd", "../x", ""):
        with pytest.raises(UnsupportedFile):
            work.add_link("l", target)


def test_nothing_is_written_through_a_staged_link(store, work, opened):
    work.add_dir("real")
    work.add_link("alias", "real")
    with pytest.raises(CachedError):
        work.add_file("alias/f", opened(b"1"), 1)
    assert not staged(store, "real/f").exists()


@pytest.mark.parametrize(("kernel", "depth"), [(True, 2000), (False, 100)])
def test_paths_as_long_as_the_system_takes_and_very_deep_trees_come_in_and_go(
    store, work, opened, monkeypatch, kernel, depth
):
    monkeypatch.setattr(beneath, "_has_openat2", lambda: kernel)
    deep = "/".join(["d"] * depth)
    long = "/".join(["n" * 255] * 15 + ["m" * 254])
    assert len(long) == 4094
    for path in (deep, long):
        work.add_file(path, opened(b"deep", "s" + path[0]), 4)
    _, content = work.seal()
    store.publish("tx", content)
    dirfd = store.open_content(content)
    fd = store.open_file(dirfd, long)
    assert os.read(fd, 9) == b"deep"
    os.close(fd)
    os.close(dirfd)
    assert store.usage()["contents"] > depth * 4096
    store.empty(store.retire(content))
    assert store.list_trash() == []


def test_a_sparse_file_counts_in_full_and_reads_as_zeros(store, work, opened, roomy):
    fd = opened(b"")
    os.truncate(roomy / "source", 5_000_000)
    work.add_file("f", fd, 5_000_000)
    _, content = work.seal()
    store.publish("tx", content)
    assert (store.data(content) / "f").read_bytes() == bytes(5_000_000)


def test_a_cancelled_ingest_ends_and_takes_nothing_more(store, work, opened):
    entered, go = threading.Event(), threading.Event()

    def slow(count: int, report=work._report) -> None:
        entered.set()
        go.wait(120)
        report(count)

    work._report = slow
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work.add_file, "f", opened(b"1" * 100), 100)
        entered.wait(120)
        with pytest.raises(Busy, match="not copied yet"):
            work.seal()
        work.cancel()
        go.set()
        with pytest.raises(Busy, match="cancelled"):
            running.result()
    with pytest.raises(Busy):
        work.add_dir("d")
    store.empty(store.discard("tx"))
    assert store.list_incoming() == []
    assert store.discard("tx") is None


def test_a_staging_area_takes_one_ingest_only(store, work):
    work.add_dir("d")
    with pytest.raises(Busy):
        Ingest(store, "tx", max_bytes=1)


def test_no_descriptor_is_left_open(store, opened, ingested):
    before = len(os.listdir("/proc/self/fd"))
    content = ingested(store, {"a/b": b"1" * 100_000, "l": "a"})
    store.manifest(content)
    store.empty(store.retire(content))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("point", ["ingest.file", "ingest.sealed", "stage.sealed"])
def test_a_failing_step_of_an_ingest_publishes_nothing(store, work, opened, point):
    fd = opened(b"1")

    def ingest() -> None:
        work.add_file("f", fd, 1)
        work.seal()

    faults.arm(f"{point}:error")
    with pytest.raises((CachedError, OSError)):
        ingest()
    assert store.list_contents() == []


@pytest.fixture
def tiny(roomy):
    """A partition of 2 MiB."""
    place = roomy / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("tier", ["disk", "memory"])
def test_a_full_partition_refuses_with_no_space_and_gives_everything_back(tiny, opened, tier):
    store = Store(tiny / "store", tier, headroom=0)
    store.open_lock()
    work = Ingest(store, "tx", max_bytes=1 << 30)
    work.staging.ballast = Ballast(
        work.staging.path / "ballast", 0
    )  # no check ahead: the device itself refuses
    with pytest.raises(NoSpace):
        work.add_file("f", opened(b"x" * 3_000_000), 3_000_000)
    work.close()
    work.staging.ballast.drop()
    with pytest.raises(NoSpace):
        store.require(3_000_000)
    store.empty(store.discard("tx"))
    assert store.partition_free() > 1_900_000
    store.close()


@pytest.mark.parametrize("step", ["hash_leaves", "write_all", "root_from_leaves"])
def test_one_processor_is_left_to_others_however_many_files_are_copied_at_once(roomy, monkeypatch, step):
    monkeypatch.setattr(copying, "_hashing", threading.BoundedSemaphore(1))
    monkeypatch.setattr(copying, "_writing", threading.BoundedSemaphore(1))
    monkeypatch.setattr(copying, "_AT_ONCE", 1)
    data, busy, most = os.urandom(3 * copying.BUFFER + 5), [], []
    home = copying.files if step == "write_all" else copying
    really = getattr(home, step)

    def slowly(*what):
        busy.append(what)
        most.append(len(busy))
        time.sleep(0.005)
        busy.pop()
        return really(*what)

    monkeypatch.setattr(home, step, slowly)
    (roomy / "f").write_bytes(data)

    def copied(number):
        with open(roomy / "f", "rb") as source, open(roomy / f"copy {number}", "wb") as goal:
            into = goal.fileno()
            return copying.root(copying.read_shared(source.fileno(), len(data), lambda _: None, into=into))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(copied, range(4)))
    assert found == [root_from_leaves(hash_leaves(data))] * 4
    assert {(roomy / f"copy {number}").read_bytes() for number in range(4)} == {data}
    assert set(most) == {1}


def test_what_is_written_at_once_is_short_so_that_others_have_their_turn(tmp_path, monkeypatch):
    sizes, really = [], os.pwrite

    def pwrite(fd, view, offset):
        sizes.append(len(view))
        return really(fd, view[: files.STEP - 5], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    data = os.urandom(2 * files.STEP + 7)
    with open(tmp_path / "f", "wb") as goal:
        files.write_all(goal.fileno(), data, 3)
    assert (tmp_path / "f").read_bytes() == bytes(3) + data
    assert max(sizes) == files.STEP

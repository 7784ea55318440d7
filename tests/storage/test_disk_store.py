from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cached import faults
from cached.errors import BadConfig, Busy, CachedError, IntegrityFailed, NoSpace, NotFound
from cached.sets import manifest as manifests
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import hash_leaves, root_from_leaves
from cached.sets.set import SetRecord, SignedRecord
from cached.storage import beneath, durability, trash
from cached.storage.disk import Store
from cached.storage.together import sync_all

TREE = {
    "a.txt": b"alpha",
    "bin/run": b"#!/bin/sh\n",
    "deep/er/b": b"x" * 40_000,
    "deep/link": "er/b",
    "void": None,
    "empty": b"",
}


def record(set_id: str = "0" * 32, revision: int = 1) -> SignedRecord:
    import msgspec

    value = SetRecord(
        id=set_id,
        name="nr",
        owner="ann",
        content="c" * 64,
        bytes=1,
        files=1,
        revision=revision,
        originator="n",
        lease_seconds=60,
    )
    return SignedRecord(payload=msgspec.json.encode(value), certificate=b"c", signature=b"s")


def modes(data: Path) -> dict[str, int]:
    return {
        str(path.relative_to(data)): stat.S_IMODE(path.lstat().st_mode)
        for path in data.rglob("*")
        if not path.is_symlink()
    }


@pytest.mark.parametrize("few", [0, 1000])
def test_a_published_content_has_closed_modes_and_the_times_of_its_source(store, ingested, monkeypatch, few):
    monkeypatch.setattr(durability, "FEW", few)
    content = ingested(store, TREE)
    data = store.data(content)
    assert modes(data) == {
        "a.txt": 0o444, "bin": 0o555, "bin/run": 0o555, "deep": 0o555, "deep/er": 0o555, "deep/er/b": 0o444,
        "void": 0o555, "empty": 0o444,
    }  # fmt: skip
    assert stat.S_IMODE(data.stat().st_mode) == 0o555
    assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700
    assert (data / "a.txt").stat().st_mtime_ns == 3_000_000_000
    assert (data / "void").stat().st_mtime_ns == 1_000_000_000
    assert (data / "deep/link").lstat().st_mtime_ns == 2_000_000_000
    assert (data / "deep/link").read_bytes() == b"x" * 40_000
    assert store.list_incoming() == []
    assert store.list_contents() == [content]
    assert store.usage()["contents"] >= 40_000


@pytest.mark.parametrize("most", [2, 1000])
def test_all_that_is_published_was_synced(store, ingested, monkeypatch, most):
    monkeypatch.setattr(durability, "MOST", most)
    content = ingested(store, TREE, publish=False)
    store.stage_record("tx0", record())
    synced = set()

    def note(descriptors) -> None:
        assert len(descriptors) <= most
        synced.update(os.fstat(fd).st_ino for fd in descriptors)
        sync_all(descriptors)

    monkeypatch.setattr(durability, "sync_all", note)
    assert store.publish("tx0", content)
    home = store.data(content).parent
    everything = {path.lstat().st_ino for path in home.rglob("*") if not path.is_symlink()}
    folders = (home, home.parent, store.root / "incoming")
    assert everything | {folder.stat().st_ino for folder in folders} <= synced
    assert store.get_records(content) == [record()]


def test_publishing_a_content_twice_keeps_the_first_and_its_new_records(store, ingested):
    content = ingested(store, TREE)
    before = store.data(content).stat().st_ino
    assert ingested(store, TREE, publish=False) == content
    store.stage_record("tx1", record())
    assert store.publish("tx1", content) is False
    assert store.data(content).stat().st_ino == before
    assert store.get_records(content) == [record()]
    assert (store.list_incoming(), store.list_trash()) == ([], [])
    assert store.publish("tx1", content) is False


def test_a_staging_area_that_came_second_is_thrown_away_by_one_at_a_time(store, ingested, monkeypatch):
    content = ingested(store, TREE)
    assert ingested(store, TREE, publish=False) == content
    clear, sweeper = trash.clear, []

    def sweeps_meanwhile(root: int) -> int:
        if not sweeper:
            (trashed,) = store.list_trash()
            sweeper.append(pool.submit(store.empty, trashed))
            with pytest.raises(TimeoutError):
                sweeper[0].result(0.1)
        return clear(root)

    monkeypatch.setattr(trash, "clear", sweeps_meanwhile)
    with ThreadPoolExecutor(1) as pool:
        assert store.publish("tx1", content) is False
    assert sweeper[0].result() == 0


def test_what_does_not_fit_the_manifest_is_not_published(store, ingested):
    content = ingested(store, TREE, publish=False)
    (store.root / "incoming/tx0/data/a.txt").chmod(0o600)
    (store.root / "incoming/tx0/data/a.txt").write_bytes(b"alph")
    with pytest.raises(IntegrityFailed, match="4 bytes, the manifest says 5"):
        store.publish("tx0", content)
    (store.root / "incoming/tx0/data/a.txt").unlink()
    with pytest.raises(IntegrityFailed, match="lacks the file"):
        store.publish("tx0", content)
    with pytest.raises(IntegrityFailed):
        store.publish("tx0", "f" * 64)
    assert store.list_contents() == []


def test_strays_and_leftovers_of_staging_are_not_published(store, ingested):
    content = ingested(store, TREE, publish=False)
    home = store.root / "incoming/tx0"
    (home / "ballast").write_bytes(b"0")
    (home / "data/.parts").write_bytes(b"0")
    (home / "data/deep/odd/er").mkdir(parents=True)
    store.publish("tx0", content)
    assert not (store.data(content) / ".parts").exists()
    assert sorted(os.listdir(store.data(content) / "deep")) == ["er", "link"]
    assert sorted(os.listdir(store.home(content))) == ["data", "leaves", "manifest", "mtimes", "sets"]


def test_a_replica_is_staged_from_a_manifest_and_published(store):
    body = b"b" * 20_000
    leaves = hash_leaves(body)
    manifest = Manifest.build(
        [
            Entry(path="d/f", kind="file", size=len(body), root=root_from_leaves(leaves), executable=True),
            Entry(path="d/none", kind="file"),
            Entry(path="l", kind="link", target="d/f"),
        ]
    )
    data = manifests.encode(manifest)
    with store.stage("rx") as staging:
        staging.prepare(manifest)
        staging.prepare(manifest)
        assert sorted(os.listdir(staging.data)) == ["d", "l"]
        assert os.listdir(staging.data / "d") == ["none"]
        assert not staging.sealed()
        staging.seal(data, leaves)
        assert staging.sealed()
        assert (staging.manifest_bytes(), staging.leaves()) == (data, leaves)
    with store.stage("rx") as staging:
        fd = staging.open_writer(manifest.entries[1])
        os.pwrite(fd, body, 0)
        os.close(fd)
    content = manifests.content_id(data)
    assert store.publish("rx", content)
    assert store.manifest(content) == manifest
    assert store.leaves(content) == leaves
    assert store.mtimes(content) is None
    assert stat.S_IMODE((store.data(content) / "d/f").stat().st_mode) == 0o555


def test_deleting_is_a_rename_and_then_as_many_tries_as_it_takes(store, ingested):
    content = ingested(store, TREE)
    held = store.open_content(content)
    reader = store.open_file(held, "deep/er/b")
    trashed = store.retire(content)
    assert trashed is not None
    assert not store.has(content)
    assert store.retire(content) is None
    faults.arm("trash.unlinked@2:error")
    with pytest.raises(CachedError):
        store.empty(trashed)
    faults.arm("")
    store.empty(trashed)
    assert store.empty(trashed) == 0
    assert store.list_trash() == []
    assert os.pread(reader, 3, 0) == b"xxx"
    with pytest.raises(NotFound):
        store.open_file(held, "a.txt")
    os.close(reader)
    os.close(held)


def test_a_content_may_be_retired_again_while_its_last_copy_is_still_in_the_trash(store, ingested):
    first = store.retire(ingested(store, TREE))
    second = store.retire(ingested(store, TREE))
    assert first != second
    assert len(store.list_trash()) == 2
    with pytest.raises(ValueError, match="not in the trash"):
        store.empty(store.root / "contents")


def test_the_lock_refuses_a_second_daemon_and_is_free_after_closing(store):
    other = Store(store.root)
    with pytest.raises(Busy):
        other.open_lock()
    store.close()
    other.open_lock()
    other.close()


def test_a_root_that_others_may_write_to_is_refused(roomy):
    root = roomy / "shared"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(BadConfig, match="others may write"):
        Store(root).open_lock()


def test_only_the_root_is_tagged_as_a_cache(store, ingested):
    ingested(store, TREE)
    assert [str(path.relative_to(store.root)) for path in store.root.rglob("CACHEDIR.TAG")] == [
        "CACHEDIR.TAG"
    ]
    assert (
        (store.root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    )


def test_records_are_replaced_listed_and_dropped(store, ingested):
    content = ingested(store, TREE)
    store.put_record(content, record("1" * 32))
    store.put_record(content, record("2" * 32))
    store.put_record(content, record("1" * 32, revision=2))
    (store.home(content) / "sets" / "broken.record").write_bytes(b"\xff")
    assert [signed.record().revision for signed in store.get_records(content)] == [2, 1]
    store.drop_record(content, "1" * 32)
    store.drop_record(content, "1" * 32)
    assert [signed.record().id for signed in store.get_records(content)] == ["2" * 32]


def test_space_is_refused_before_the_headroom_is_touched(store):
    store.headroom = store.partition_free() + (1 << 30)
    with pytest.raises(NoSpace) as caught:
        store.require(1)
    assert caught.value.details["bytes_free"] == 0


@pytest.mark.parametrize("fault", ["store.settled", "store.synced", "store.renamed", "store.published"])
def test_a_publish_cut_short_anywhere_can_be_repeated(store, ingested, fault):
    content = ingested(store, TREE, publish=False)
    faults.arm(f"{fault}:error")
    with pytest.raises((CachedError, OSError)):
        store.publish("tx0", content)
    faults.arm("")
    assert not store.has(content) or "rename" in fault or "publish" in fault
    store.publish("tx0", content)
    assert store.list_contents() == [content]
    assert store.list_incoming() == []


def test_a_full_device_is_no_space(store, ingested):
    content = ingested(store, TREE, publish=False)
    faults.arm("store.settled:full")
    with pytest.raises(NoSpace):
        store.publish("tx0", content)


@pytest.mark.parametrize("kernel", [True, False])
def test_no_path_leads_out_of_a_content(store, ingested, monkeypatch, kernel):
    monkeypatch.setattr(beneath, "_has_openat2", lambda: kernel)
    content = ingested(store, {**TREE, "deep/up": "../a.txt", "loop": "loop"})
    dirfd = store.open_content(content)
    outside = store.data(content)
    outside.chmod(0o755)
    (outside / "evil").symlink_to("../manifest")
    (outside / "absolute").symlink_to("/etc/passwd")
    for path in (
        "..",
        "../manifest",
        "/etc/passwd",
        "evil",
        "absolute",
        "loop",
        "nope",
        "a.txt/x",
        "a\0b",
        "deep/../../x",
        "n" * 300,
    ):
        with pytest.raises(NotFound):
            store.open_file(dirfd, path)
    for path, text in (
        ("a.txt", b"alpha"),
        ("deep/up", b"alpha"),
        ("deep/link", b"xxxxx"),
        ("deep/../a.txt", b"alpha"),
    ):
        fd = store.open_file(dirfd, path)
        assert os.pread(fd, 5, 0) == text
        assert not os.get_inheritable(fd)
        os.close(fd)
    for path in ("", "deep", "deep/er/"):
        fd = store.open_file(dirfd, path)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        os.close(fd)
    os.close(dirfd)


STRANGER = """
import os, sys, errno
dirfd, store = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def refused(work):
    try: work()
    except OSError as error: return error.errno in (errno.EACCES, errno.EPERM)
    return False
read = lambda path: os.read(os.open(path, os.O_RDONLY, dir_fd=dirfd), 99)
assert read("a.txt") == b"alpha" and read("deep/link")[:2] == b"xx", "reading through the descriptor"
assert sorted(os.listdir(dirfd)) == ["a.txt", "bin", "deep", "empty", "void"]
assert open(f"/proc/self/fd/{dirfd}/a.txt").read() == "alpha"
assert refused(lambda: os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=dirfd)), ".. can be listed"
assert refused(lambda: read("../manifest")), "the manifest can be read"
assert refused(lambda: os.stat("../sets", dir_fd=dirfd)), "records can be seen"
assert refused(lambda: os.listdir(store)), "the store can be listed"
assert refused(lambda: os.open("a.txt", os.O_WRONLY, dir_fd=dirfd)), "a file can be written"
assert refused(lambda: os.open("new", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=dirfd)), "a file can be made"
assert refused(lambda: os.unlink("a.txt", dir_fd=dirfd)), "a file can be removed"
fd = os.open("a.txt", os.O_RDONLY, dir_fd=dirfd)
assert refused(lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR)), "a file can be reopened for writing"
assert refused(lambda: os.fchmod(dirfd, 0o777)), "modes can be changed"
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changes its uid")
def test_for_another_user_the_descriptor_is_the_whole_capability(store, ingested):
    dirfd = store.open_content(ingested(store, TREE))
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(dirfd), str(store.root / "contents")],
        pass_fds=[dirfd], capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(dirfd)
    assert done.returncode == 0, done.stderr


UNPRIVILEGED = """
import concurrent.futures.thread, os, sys, tempfile  # the libraries may be closed to others
from pathlib import Path
from cached import faults
from cached.sets.manifest import Entry
from cached.storage import repair, scrub
from cached.storage.disk import Store
from cached.storage.ingest import Ingest
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.umask(0o077)
store = Store(Path(sys.argv[1]) / "mine"); store.open_lock()
ingest = Ingest(store, "tx", max_bytes=10)
with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
    file.write(b"0123456789"); file.flush()
    ingest.add_file("d/e/f", file.fileno(), 10)
_, content = ingest.seal(); ingest.close()
faults.arm("store.settled:error")
try: store.publish("tx", content)
except Exception: pass
faults.arm("")
store.publish("tx", content)
assert scrub.verify(store, content) == []
target = store.data(content) / "d/e/f"
target.chmod(0o600); target.write_bytes(b"0123456780")
assert {damage.kind for damage in scrub.verify(store, content)} == {"bytes"}
repair.close_off(store, content, ["d/e/f"])
assert target.stat().st_mode & 0o777 == 0
assert {damage.kind for damage in scrub.verify(store, content)} == {"bytes"}
assert target.stat().st_mode & 0o777 == 0
staged = Path(sys.argv[1]) / "mine/incoming/fix"; staged.write_bytes(b"0123456789")
repair.replace_file(store, content, "d/e/f", staged)
assert scrub.verify(store, content) == []
store.empty(store.retire(content))
assert store.list_trash() == []
with store.stage("tx2") as staging:
    (staging.data / "d").mkdir(); (staging.data / "d/f").touch()
    (staging.data / "d/f").chmod(0o444); (staging.data / "d").chmod(0o555)
    os.close(staging.open_writer(Entry(path="d/f", kind="file", size=1, root=b"r" * 32)))
    os.close(staging.open_writer(Entry(path="d/g", kind="file", size=1, root=b"r" * 32)))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changes its uid")
def test_a_daemon_without_root_publishes_repairs_and_deletes_read_only_trees(roomy):
    home = roomy / "unprivileged"
    home.mkdir()
    os.chown(home, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(home)], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(beneath.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

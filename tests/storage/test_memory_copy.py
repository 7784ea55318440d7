from __future__ import annotations

import os
from pathlib import Path

import pytest
from cached.errors import (
    IntegrityFailed,
)
from cached.storage import copying
from cached.storage.disk import Store


@pytest.fixture
def memory(tmp_path):
    shm = Path("/dev/shm") / f"cached-test-{os.getpid()}"
    store = Store(shm, "memory")
    store.open_lock()
    yield store
    store.close()
    for trashed in (store.retire(content) for content in store.list_contents()):
        store.empty(trashed)
    for txid in store.list_incoming():
        store.empty(store.discard(txid))
    for part in ("contents", "incoming", "trash"):
        (shm / part).rmdir()
    for name in ("lock", "CACHEDIR.TAG"):
        (shm / name).unlink()
    shm.rmdir()


def test_a_memory_copy_equals_its_disk_original_and_has_no_holes(store, memory, ingested):
    content = ingested(store, {"bin/x": bytes(300_000), "y/z": b"y" * 70_000, "l": "y/z", "none": b""})
    seen = []
    copying.copy_content(store, content, memory, "m1", seen.append)
    assert memory.publish("m1", content)
    assert sum(seen) == 370_000
    assert memory.leaves(content) == store.leaves(content)
    assert memory.mtimes(content) == store.mtimes(content)
    facts = (memory.data(content) / "bin/x").stat()
    assert facts.st_blocks * 512 >= facts.st_size
    assert facts.st_mode & 0o777 == 0o555
    assert (memory.data(content) / "l").read_bytes() == b"y" * 70_000


def test_holes_that_a_writer_left_on_the_memory_tier_are_filled_when_published(store, memory, ingested):
    content = ingested(store, {"x": bytes(300_000)})
    with memory.stage("m") as staging:
        staging.prepare(store.manifest(content))
        (staging.data / "x").touch()
        os.truncate(staging.data / "x", 300_000)
        staging.seal(store.manifest_bytes(content), store.leaves(content))
    memory.publish("m", content)
    assert (memory.data(content) / "x").stat().st_blocks * 512 >= 300_000


def test_a_damaged_original_is_not_copied(store, memory, ingested):
    content = ingested(store, {"x": b"good" * 1000})
    (store.data(content) / "x").chmod(0o644)
    (store.data(content) / "x").write_bytes(b"baad" * 1000)
    with pytest.raises(IntegrityFailed, match="'x'"):
        copying.copy_content(store, content, memory, "m1")
    os.truncate(store.data(content) / "x", 10)
    with pytest.raises(IntegrityFailed, match="shorter"):
        copying.copy_content(store, content, memory, "m1")

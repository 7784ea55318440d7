"""Many small files in one descriptor: a bundle is taken like the files one by one."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import pytest
from cached.errors import (
    BadName,
    Busy,
    NoSpace,
    UsageError,
)
from cached.storage import copying
from cached.storage.disk import Store
from cached.storage.ingest import MOST_BUNDLED, Ingest
from cached.storage.scrub import verify


def staged(store: Store, path: str) -> Path:
    return store.root / "incoming/tx/data" / path


class One(NamedTuple):
    path: str
    size: int
    executable: bool = False
    mtime_ns: int = 0


def bundled(opened, bodies: dict[str, bytes]) -> tuple[int, list[One]]:
    entries = [One(path, len(body), path.endswith("x"), 1_000 + len(body)) for path, body in bodies.items()]
    return opened(b"".join(bodies.values()), "bundle"), entries


def test_the_files_of_a_bundle_are_what_they_would_be_one_by_one(store, work, opened):
    sizes = (0, 1, 5_000, 16_384, 16_385, 60_000, 0)
    bodies = {
        f"d{number % 2}/{number}{'x' * (number % 2)}": os.urandom(size) for number, size in enumerate(sizes)
    }
    work.add_bundle(*bundled(opened, bodies))
    other = Ingest(store, "other", max_bytes=10_000_000)
    for path, body in bodies.items():
        fd = opened(body, "one")
        other.add_file(path, fd, len(body), path.endswith("x"), 1_000 + len(body))
    manifest, content = work.seal()
    assert (manifest, content) == other.seal()
    assert (work.bytes_done, work.files_done) == (sum(sizes), len(sizes))
    other.close()
    assert store.publish("tx", content)
    for path, body in bodies.items():
        file = store.data(content) / path
        facts = file.stat()
        assert file.read_bytes() == body
        assert stat.S_IMODE(facts.st_mode) == (0o555 if path.endswith("x") else 0o444)
        assert facts.st_mtime_ns == 1_000 + len(body)
    copying.check_leaves(store.manifest(content), store.leaves(content))
    assert verify(store, content) == []


def test_a_bundle_shorter_than_its_files_is_refused(work, opened):
    with pytest.raises(UsageError, match="has 3 bytes"):
        work.add_bundle(opened(b"123"), [One("f", 4)])


def test_a_bundle_larger_than_may_be_is_refused_unread(work, opened):
    with pytest.raises(UsageError, match="too large"):
        work.add_bundle(opened(b"123"), [One("f", MOST_BUNDLED + 1)])


@pytest.mark.parametrize("kind", ["pipe", "directory", "path", "write"])
def test_a_bundle_is_a_file_open_for_reading(work, roomy, kind):
    (roomy / "source").write_bytes(b"1234")
    if kind == "pipe":
        fd, other = os.pipe()
        os.close(other)
    elif kind == "directory":
        fd = os.open(roomy, os.O_RDONLY)
    else:
        fd = os.open(roomy / "source", os.O_PATH if kind == "path" else os.O_WRONLY)
    try:
        with pytest.raises(UsageError):
            work.add_bundle(fd, [One("f", 4)])
    finally:
        os.close(fd)


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("link", "link/x")])
def test_files_of_a_bundle_go_together_like_others(work, opened, paths):
    if paths[0] == "link":
        work.add_link("link", "elsewhere")
    with pytest.raises(BadName):
        work.add_bundle(opened(b"12"), [One(path, 1) for path in paths])


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", ".", "", "n" * 256])
def test_files_of_a_bundle_have_fit_names(store, work, opened, path):
    with pytest.raises(BadName):
        work.add_bundle(opened(b"12"), [One("fit", 1), One(path, 1)])
    assert not staged(store, "fit").exists()


def test_a_bundle_beyond_the_reservation_is_refused(store, opened):
    work = Ingest(store, "tx", max_bytes=10)
    with pytest.raises(NoSpace):
        work.add_bundle(opened(b"x" * 12), [One("a", 6), One("b", 6)])
    assert not staged(store, "a").exists()
    work.close()


def test_a_bundle_ends_when_the_creation_is_cancelled(work, opened):
    work.cancel()
    with pytest.raises(Busy):
        work.add_bundle(opened(b"12"), [One("a", 2)])

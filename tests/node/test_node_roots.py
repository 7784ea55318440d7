"""Directories kept open: files beside them, links, what was made anew, and no descriptor too many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.errors import NotFound
from cached.node.roots import Roots
from cached.storage.disk import Store
from cached.storage.ingest import Ingest

TREE = {
    "top": b"top",
    "a": None,
    "a/b": None,
    "a/b/file": b"deep",
    "a/other": b"other",
    "to-file": "a/b/file",
    "to-dir": "a/b",
    "a/up": "../top",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store", headroom=0)
    store.open_lock()
    yield store
    store.close()
    for where, names, _ in os.walk(store.root):
        for name in names:
            if not Path(where, name).is_symlink():
                Path(where, name).chmod(0o700)


@pytest.fixture
def content(store: Store, tmp_path: Path) -> str:
    return commit(store, tmp_path, TREE)


@pytest.fixture
def roots() -> Iterator[Roots]:
    roots = Roots()
    yield roots
    roots.close()


def commit(store: Store, folder: Path, tree: dict[str, bytes | str | None]) -> str:
    source = folder / "source"
    work = Ingest(store, "tx", max_bytes=1 << 20)
    for path, value in tree.items():
        if value is None:
            work.add_dir(path, mtime_ns=0)
        elif isinstance(value, str):
            work.add_link(path, value, mtime_ns=0)
        else:
            source.write_bytes(value)
            with source.open("rb") as file:
                work.add_file(path, file.fileno(), len(value), False, mtime_ns=0)
    _, content = work.seal()
    work.close()
    assert store.publish("tx", content)
    return content


def read(roots: Roots, store: Store, content: str, path: str) -> bytes:
    descriptor = roots.open(store, content, path)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("top", b"top"),
        ("a/b/file", b"deep"),
        ("a/other", b"other"),
        ("to-file", b"deep"),
        ("to-dir/file", b"deep"),
        ("a/up", b"top"),
    ],
)
def test_files_are_opened_at_any_depth_and_through_links_again_and_again(roots, store, content, path, data):
    assert [read(roots, store, content, path) for _ in range(3)] == [data] * 3


def test_a_directory_can_be_opened_and_listed(roots, store, content):
    for path in ("a/b", "to-dir"):
        descriptor = roots.open(store, content, path)
        assert os.listdir(descriptor) == ["file"]
        os.close(descriptor)


@pytest.mark.parametrize("path", ["none", "a/none", "none/file", "top/file"])
def test_what_is_not_there_is_not_found(roots, store, content, path):
    read(roots, store, content, "a/other")
    with pytest.raises(NotFound):
        roots.open(store, content, path)


def test_nothing_leads_upwards(roots, store, content):
    for path in ("..", "../..", "a/../../x", "/etc/passwd"):
        with pytest.raises(NotFound):
            roots.open(store, content, path)


def test_a_directory_that_was_made_anew_is_found_again(roots, store, content):
    assert read(roots, store, content, "a/b/file") == b"deep"
    data = store.home(content) / "data"
    (data / "a").chmod(0o700)
    (data / "a" / "b").chmod(0o700)
    (data / "a" / "b").rename(store.root / "old")
    (store.root / "old" / "file").unlink()
    (data / "a" / "b").mkdir()
    (data / "a" / "b" / "file").write_bytes(b"anew")
    assert read(roots, store, content, "a/b/file") == b"anew"


def test_no_more_directories_stay_open_than_allowed_and_none_of_a_content_that_goes(store, tmp_path):
    tree: dict[str, bytes | str | None] = {}
    for number in range(20):
        tree |= {f"d{number:02}": None, f"d{number:02}/f": b"%d" % number}
    content = commit(store, tmp_path, tree)
    before = descriptors()
    roots = Roots(limit=5)
    for _ in range(2):
        for number in range(20):
            assert read(roots, store, content, f"d{number:02}/f") == b"%d" % number
    assert descriptors() <= before + 5
    roots.drop(store, content)
    assert descriptors() == before
    assert read(roots, store, content, "d03/f") == b"3"
    roots.close()
    assert descriptors() == before

from __future__ import annotations

import errno
import os

import pytest
from cached.sets.manifest import Entry, Manifest
from cached.storage import beneath, durability


def tree_of(*paths: str) -> Manifest:
    return Manifest(entries=tuple(Entry(path=path, kind="file", size=5, root=bytes(32)) for path in paths))


@pytest.fixture
def written(monkeypatch):
    """Names of the files that the kernel was asked to write."""
    asked: list[str] = []
    start = beneath.start_writing

    def note(fd: int) -> None:
        asked.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        start(fd)

    monkeypatch.setattr(durability, "start_writing", note)
    return asked


def test_what_has_come_is_written_ahead_and_what_has_not_is_passed_over(store, written):
    with store.stage("tx") as staging:
        (staging.data / "b").write_bytes(b"12345")
        staging.write_ahead(tree_of("a", "b"))
        assert written == ["b"]
        assert (staging.data / "b").read_bytes() == b"12345"


def test_of_very_many_files_none_is_written_ahead(store, written, monkeypatch):
    monkeypatch.setattr(durability, "FEW", 1)
    with store.stage("tx") as staging:
        (staging.data / "b").write_bytes(b"12345")
        staging.write_ahead(tree_of("a", "b"))
    assert written == []


def test_a_descriptor_that_is_none_cannot_be_written():
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        beneath.start_writing(-1)

"""`export`: a set copied out, whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.client import Client, export
from cached.errors import CachedError, UnsupportedFile, UsageError
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"), mtimes={"sub": 5 * 10**17, "run.sh": 4 * 10**17})
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.runtime, timeout=60) as client:
        yield client


def tree(top: Path) -> dict[str, object]:
    return {
        str(path.relative_to(top)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in top.rglob("*")
    }


def test_a_set_becomes_a_new_directory_with_modes_and_times(client, daemon, tmp_path):
    seen = []
    umask = os.umask(0o027)
    try:
        client.export("nr", tmp_path / "out", progress=seen.append)
    finally:
        os.umask(umask)
    out = tmp_path / "out"
    assert tree(out) == tree(tmp_path / "source")
    assert stat.S_IMODE((out / "a.txt").stat().st_mode) == 0o640
    assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o750
    assert (out / "run.sh").stat().st_mtime_ns == 4 * 10**17
    assert (out / "sub").stat().st_mtime_ns == 5 * 10**17
    assert (out / "a.txt").stat().st_mtime_ns == 10**18 + 5
    assert (seen[-1].bytes_present, seen[-1].bytes_wanted, seen[-1].files_done) == (10263, 10263, 4)
    daemon.until(lambda: not +daemon.node.pins)


@pytest.mark.parametrize(("what", "there"), [("nr", "a.txt"), ("nr/a.txt", "")])
def test_directories_above_the_destination_are_made_and_go_again_on_an_error(
    client, tmp_path, monkeypatch, what, there
):
    client.export(what, tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c" / there).is_file()

    def fail(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(export, "copy_bytes", fail)
    (tmp_path / "stays").mkdir()
    with pytest.raises(CachedError):
        client.export(what, tmp_path / "stays/x/y/z")
    assert list((tmp_path / "stays").iterdir()) == []
    with pytest.raises(CachedError):
        client.export(what, tmp_path / "source/a.txt/below/it")


def test_an_empty_directory_is_filled_and_a_used_one_refused(client, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    client.export("nr", out)
    assert tree(out) == tree(tmp_path / "source")
    with pytest.raises(UsageError, match="not empty"):
        client.export("nr", out)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="no directory"):
        client.export("nr", tmp_path / "file")
    assert tree(out) == tree(tmp_path / "source")


def test_a_view_is_read_only(client, tmp_path):
    client.export("nr", tmp_path / "out", view=True)
    assert stat.S_IMODE((tmp_path / "out" / "a.txt").stat().st_mode) == 0o444
    assert stat.S_IMODE((tmp_path / "out" / "run.sh").stat().st_mode) == 0o555


def test_a_part_of_a_set_and_a_single_file(client, tmp_path):
    client.export("nr/sub/deep", tmp_path / "deep")
    assert list(tree(tmp_path / "deep")) == ["ünï \U0001f40d.bin"]
    client.export("nr/run.sh", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "one").stat().st_mtime_ns == 4 * 10**17
    assert os.access(tmp_path / "one", os.X_OK)
    with pytest.raises(UsageError, match="exists"):
        client.export("nr/run.sh", tmp_path / "one")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupt_or_an_error_leaves_nothing(client, tmp_path, monkeypatch, error, existing):
    out = tmp_path / "out"
    if existing:
        out.mkdir()
    calls = []

    def fail(source, goal, size):
        calls.append(size)
        if len(calls) == 3:
            raise error
        yield from copy(source, goal, size)

    copy = export.copy_bytes
    monkeypatch.setattr(export, "copy_bytes", fail)
    with pytest.raises((KeyboardInterrupt, CachedError)):
        client.export("nr", out)
    assert out.exists() == existing
    assert not existing or not os.listdir(out)


def test_a_killed_copy_is_taken_up_again_by_the_same_export_only(client, daemon, tmp_path, monkeypatch):
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        calls = []

        def die(source, goal, size):
            calls.append(size)
            if len(calls) == 3:
                os._exit(0)
            yield from copy(source, goal, size)

        copy = export.copy_bytes
        export.copy_bytes = die
        client.export("nr", out)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kept = (out / "a.txt").stat().st_ino
    daemon.node.put("other", tmp_path / "source")
    with pytest.raises(UsageError, match="not empty"):
        client.export("other", out)
    client.export("nr", out)
    assert tree(out) == tree(tmp_path / "source")
    assert (out / "a.txt").stat().st_ino == kept


def test_without_reflinks_and_kernel_copies_bytes_are_still_copied(tmp_path, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(export.fcntl, "ioctl", refuse)
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as goal:
        assert list(export.copy_bytes(source.fileno(), goal.fileno(), len(data)))[-1] == len(data)
    assert (tmp_path / "b").read_bytes() == data


def test_a_destination_that_cannot_be_made_is_named(client, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CachedError, match="file/out"):
        client.export("nr", tmp_path / "file" / "out")


def test_a_part_whose_links_lead_out_of_it_is_refused_before_anything_is_copied(client, tmp_path):
    with pytest.raises(UnsupportedFile, match=r"'link' leads outside.*a\.txt") as refused:
        client.export("nr/sub", tmp_path / "out")
    assert refused.value.hint
    assert not (tmp_path / "out").exists()

"""`cachegs://` through fsspec, over the real sockets."""

from __future__ import annotations

import datetime as dt
import errno
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cached.fs import ObjectFileSystem
from fsspec.callbacks import Callback
from tests.api.fake_daemon import Daemon, running

HELLO = b"hello, world\n"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("CACHED_GCS_TOKEN", "tok-ada")
    with running(tmp_path) as daemon:
        cloud = daemon.node.cloud
        for name in ("a.txt", "dir/b.txt", "dir/deep/c.bin", "dir/deep/d.txt", "odd/"):
            cloud.plant(
                f"gs://genomes/{name}", HELLO if name.endswith("txt") else b"", content_type="text/plain"
            )
        yield daemon
    ObjectFileSystem.clear_instance_cache()


def options(daemon: Daemon) -> dict[str, Any]:
    return {"runtime_dir": str(daemon.runtime)}


@pytest.fixture
def fs(daemon: Daemon) -> ObjectFileSystem:
    return fsspec.filesystem("cachegs", **options(daemon))


def test_the_entry_point_opens_urls_for_reading_and_writing(daemon):
    with fsspec.open("cachegs://genomes/a.txt", **options(daemon)) as file:
        assert file.read() == HELLO
    with fsspec.open("cachegs://results/x.txt", "wt", **options(daemon)) as file:
        file.write("text")
    with fsspec.open("cachegs://results/x.txt", "rt", **options(daemon)) as file:
        assert file.read() == "text"
    assert set(daemon.node.cloud.seen) == {"tok-ada"}


def test_both_kinds_of_address_name_the_same(fs):
    assert fs.cat_file("cachegs://genomes/a.txt") == fs.cat_file("gs://genomes/a.txt") == HELLO
    assert fs.unstrip_protocol("gs://genomes/a.txt") == "cachegs://genomes/a.txt"
    generation = fs.info("genomes/a.txt")["generation"]
    assert fs.cat_file(f"genomes/a.txt#{generation}") == HELLO


def test_directories_are_the_beginnings_of_names(fs):
    assert fs.ls("genomes", detail=False) == ["genomes/dir", "genomes/odd", "genomes/a.txt"]
    assert fs.ls("genomes/dir/", detail=False) == ["genomes/dir/deep", "genomes/dir/b.txt"]
    assert fs.ls("genomes/a.txt", detail=False) == ["genomes/a.txt"]
    assert fs.ls("genomes/odd") == []
    assert fs.isdir("genomes/dir")
    assert fs.isfile("genomes/dir/b.txt")
    assert fs.exists("genomes/dir/deep")
    assert not fs.exists("genomes/di")
    with pytest.raises(FileNotFoundError):
        fs.ls("genomes/none")
    with pytest.raises(FileNotFoundError):
        fs.ls("no-such-bucket")
    with pytest.raises(PermissionError, match="buckets are not listed"):
        fs.ls("")


def test_find_and_glob_see_what_is_there_now(fs, daemon):
    assert fs.find("genomes/dir") == ["genomes/dir/b.txt", "genomes/dir/deep/c.bin", "genomes/dir/deep/d.txt"]
    assert fs.glob("genomes/**/*.txt") == ["genomes/a.txt", "genomes/dir/b.txt", "genomes/dir/deep/d.txt"]
    assert fs.glob("gs://genomes/dir/*.txt") == ["genomes/dir/b.txt"]
    daemon.node.cloud.plant("gs://genomes/dir/new.txt", b"")
    assert fs.glob("genomes/dir/*.txt") == ["genomes/dir/b.txt", "genomes/dir/new.txt"]
    assert fs.du("genomes") == 3 * len(HELLO)


def test_info_says_size_generation_and_time(fs, daemon):
    facts = fs.info("genomes/a.txt")
    assert (facts["type"], facts["size"], facts["contentType"]) == ("file", len(HELLO), "text/plain")
    before = fs.ukey("genomes/a.txt")
    daemon.node.cloud.plant("gs://genomes/a.txt", b"other")
    assert fs.ukey("genomes/a.txt") != before
    assert fs.modified("genomes/a.txt") == dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("through", [False, True])
def test_parts_can_be_read(fs, daemon, through):
    if through:
        daemon.node.cloud.through.add("a.txt")
    assert fs.cat_file("genomes/a.txt", 0, 5) == b"hello"
    assert fs.cat_file("genomes/a.txt", -6) == b"world\n"
    assert fs.cat_file("genomes/a.txt", 5, 2) == b""
    assert fs.cat_ranges(["genomes/a.txt"] * 2, [0, 7], [5, 12]) == [b"hello", b"world"]
    assert fs.cat(["genomes/a.txt", "genomes/dir/b.txt"]) == {
        "genomes/a.txt": HELLO,
        "genomes/dir/b.txt": HELLO,
    }
    assert fs.head("genomes/a.txt", 5) == b"hello"


@pytest.mark.parametrize("through", [False, True])
def test_files_are_copied_out_and_in(fs, daemon, tmp_path, through):
    if through:
        daemon.node.cloud.through |= {"a.txt", "dir/b.txt"}
    told = Callback()
    fs.get_file("genomes/a.txt", tmp_path / "deep" / "a", callback=told)
    assert (tmp_path / "deep" / "a").read_bytes() == HELLO
    assert (told.size, told.value) == (len(HELLO), len(HELLO))
    fs.get("genomes/dir", str(tmp_path / "tree"), recursive=True)
    assert (tmp_path / "tree" / "deep" / "d.txt").read_bytes() == HELLO
    buffer = io.BytesIO()
    fs.get_file("genomes/a.txt", None, outfile=buffer)
    assert buffer.getvalue() == HELLO
    fs.put(str(tmp_path / "tree"), "results/tree", recursive=True)
    assert fs.cat_file("results/tree/deep/d.txt") == HELLO
    fs.pipe_file("results/p", b"piped")
    assert fs.cat_file("results/p") == b"piped"
    with pytest.raises(Exception, match="generation"):
        fs.pipe_file("results/p", b"again", mode="create")
    fs.cp_file("genomes/a.txt", "results/copy")
    assert fs.cat_file("results/copy") == HELLO
    fs.touch("results/empty")
    assert fs.size("results/empty") == 0


def test_an_exception_in_a_with_stores_nothing(fs, daemon):
    def write() -> None:
        with fs.open("results/x", "wb") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert ("results", "x") not in daemon.node.cloud.objects


def test_what_is_not_possible_says_so(fs):
    for call in (fs.rm, fs.rm_file, fs.rmdir, lambda path: fs.mv(path, "genomes/z")):
        with pytest.raises(PermissionError, match="Cloud Storage's own tools") as told:
            call("genomes/a.txt")
        assert told.value.errno == errno.EPERM
    for mode in ("ab", "r+b", "xb"):
        with pytest.raises(NotImplementedError):
            fs.open("genomes/a.txt", mode)
    with pytest.raises(NotImplementedError), fs.transaction:
        fs.open("results/x", "wb")
    with pytest.raises(FileNotFoundError):
        fs.open("genomes/none")


def test_denied_is_a_permission_error(fs, daemon):
    daemon.node.cloud.tokens = set()
    for call in (fs.open, fs.info, fs.ls):
        with pytest.raises(PermissionError):
            call("genomes/a.txt")


def test_an_instance_can_be_pickled_and_forked(fs, daemon):
    assert pickle.loads(pickle.dumps(fs)).cat_file("genomes/a.txt") == HELLO
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(fs.cat_file("genomes/a.txt") != HELLO)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_directory_that_is_copied_out_writes_nothing_outside_of_where_it_goes(fs, daemon, tmp_path):
    daemon.node.cloud.plant("gs://genomes/bad/../../../stolen", HELLO)
    goal = tmp_path / "deep" / "goal"
    goal.mkdir(parents=True)
    with pytest.raises(ValueError, match="outside"):
        fs.get("genomes/bad", str(goal), recursive=True)
    assert list(tmp_path.rglob("stolen")) == []

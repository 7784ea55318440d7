"""`cacheset://` through fsspec, with fsspec's own abstract suite for reading."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cached.fs import CacheSetFileSystem
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.tests.abstract import AbstractFixtures
from fsspec.tests.abstract.get import AbstractGetTests
from tests.api.fake_daemon import Daemon, plant, running
from tests.api.fake_node import root_of

HELLO = b"hello, world\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon
    CacheSetFileSystem.clear_instance_cache()


@pytest.fixture
def fs(daemon: Daemon) -> CacheSetFileSystem:
    return fsspec.filesystem("cacheset", runtime_dir=str(daemon.runtime))


def options(daemon: Daemon) -> dict[str, Any]:
    return {"runtime_dir": str(daemon.runtime)}


def test_the_entry_point_opens_urls(daemon):
    with fsspec.open("cacheset://nr/a.txt", **options(daemon)) as file:
        assert file.read() == HELLO
    with fsspec.open("cacheset://root:nr/sub/link", "rt", **options(daemon)) as file:
        assert file.read() == HELLO.decode()
    with fsspec.open("simplecache::cacheset://root:nr/a.txt", cacheset=options(daemon)) as file:
        assert file.read() == HELLO


def test_open_gives_real_files_whose_names_are_paths(fs):
    file = fs.open("nr/a.txt")
    assert os.pread(file.fileno(), 5, 0) == b"hello"
    assert Path(file.name).read_bytes() == HELLO
    file.close()


def test_open_local_gives_paths_that_outlive_the_file(daemon):
    path = fsspec.open_local("cacheset://nr/a.txt", **options(daemon))
    assert Path(path).read_bytes() == HELLO
    paths = fsspec.open_local("cacheset://nr/*.*", **options(daemon))
    assert sorted(Path(each).name for each in paths) == ["a.txt", "run.sh"]


def test_ls_info_find_glob_and_walk(fs):
    assert fs.ls("", detail=False) == ["nr"]
    assert sorted(fs.ls("cacheset://nr", detail=False)) == ["nr/a.txt", "nr/empty-dir", "nr/run.sh", "nr/sub"]
    assert fs.ls("nr/a.txt", detail=False) == ["nr/a.txt"]
    info = fs.info("nr/a.txt")
    assert (info["type"], info["size"], info["root"]) == ("file", 13, root_of(HELLO))
    link = fs.info("nr/sub/link")
    assert (link["type"], link["islink"], link["destination"]) == ("file", True, "../a.txt")
    assert fs.isdir("nr")
    assert fs.isdir("nr/sub/")
    assert not fs.exists("nr/none")
    assert not fs.exists("other/a.txt")
    assert fs.du("nr") == 13 + 10 + 10240 + 13
    assert fs.glob("nr/**/*.bin") == ["nr/sub/deep/ünï \U0001f40d.bin"]
    assert [len(files) for _, _, files in fs.walk("nr")] == [2, 0, 2, 1]


def test_sets_of_one_name_are_listed_with_their_owners(fs, daemon):
    daemon.node.put("nr", next(iter(daemon.node.sets.values())).data, owner="alice")
    assert sorted(fs.ls("", detail=False)) == ["alice:nr", "root:nr"]
    assert fs.cat_file("alice:nr/a.txt") == HELLO


def test_parts_of_files(fs):
    assert fs.cat_file("nr/a.txt") == HELLO
    assert fs.cat_file("nr/a.txt", 7) == b"world\n"
    assert fs.cat_file("nr/a.txt", -6, -1) == b"world"
    assert fs.cat_file("nr/a.txt", 99) == b""
    assert fs.cat_ranges(["nr/a.txt", "nr/a.txt", "nr/run.sh"], [0, 7, 0], [5, 12, 2]) == [
        b"hello",
        b"world",
        b"#!",
    ]
    good, bad = fs.cat_ranges(["nr/a.txt", "nr/none"], 0, 1)
    assert good == b"h"
    assert isinstance(bad, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["nr/none"], 0, 1, on_error="raise")
    assert fs.head("nr/a.txt", 5) == b"hello"


def test_times_and_digests(fs, daemon):
    assert fs.modified("nr/a.txt").timestamp() == 10**9
    assert fs.created("nr/a.txt") == fs.modified("nr/a.txt")
    assert fs.checksum("nr/a.txt") == fs.ukey("nr/sub/link") == root_of(HELLO)
    assert fs.ukey("nr/sub/empty") == "empty"


def test_an_instance_pickles_without_sockets_and_reads_elsewhere(fs):
    fs.cat_file("nr/a.txt")
    data = pickle.dumps(fs)
    CacheSetFileSystem.clear_instance_cache()
    again = pickle.loads(data)
    assert again is not fs
    assert again.cat_file("nr/a.txt") == HELLO


def test_a_forked_child_reads_too(fs):
    assert fs.cat_file("nr/a.txt") == HELLO
    child = os.fork()
    if not child:
        os._exit(0 if fs.cat_file("nr/run.sh").startswith(b"#!") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_replaced_name_is_read_in_its_old_version_until_it_is_asked_again(fs, daemon, tmp_path):
    assert fs.cat_file("nr/a.txt") == HELLO
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.txt").write_bytes(b"new")
    daemon.node.put("nr", tmp_path / "new")
    assert fs.cat_file("nr/a.txt") == HELLO
    assert fs.info("nr/a.txt")["size"] == 13
    fs.invalidate_cache()
    assert fs.cat_file("nr/a.txt") == b"new"


@pytest.mark.parametrize(
    "write",
    [
        lambda fs: fs.open("nr/x", "wb"),
        lambda fs: fs.pipe_file("nr/x", b""),
        lambda fs: fs.rm("nr/a.txt"),
        lambda fs: fs.mkdir("nr/d"),
        lambda fs: fs.makedirs("nr/d/e"),
        lambda fs: fs.rmdir("nr/empty-dir"),
        lambda fs: fs.touch("nr/a.txt"),
        lambda fs: fs.cp_file("nr/a.txt", "nr/b.txt"),
        lambda fs: fs.put_file("/etc/hostname", "nr/x"),
        lambda fs: fs.mv("nr/a.txt", "nr/b.txt"),
    ],
)
def test_writing_is_refused_as_on_a_read_only_filesystem(fs, write):
    with pytest.raises(PermissionError) as caught:
        write(fs)
    assert caught.value.errno == errno.EROFS


def test_a_missing_file_and_a_directory_are_pythons_own_errors(fs):
    with pytest.raises(FileNotFoundError):
        fs.open("nr/none")
    with pytest.raises(FileNotFoundError):
        fs.open("none/a.txt")
    with pytest.raises(IsADirectoryError):
        fs.open("nr/sub")
    with pytest.raises(IsADirectoryError):
        fs.open("nr")


def test_a_directory_that_somebody_tried_to_open_does_not_stay_open(fs):
    with pytest.raises(IsADirectoryError):
        fs.open("nr/sub")
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    assert links
    assert not [link for link in links if link.endswith("/sub")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("abstract")) as daemon:
        yield daemon
    CacheSetFileSystem.clear_instance_cache()


class CacheSetFixtures(AbstractFixtures):
    """fsspec's trees, committed as sets instead of being written through the filesystem."""

    @pytest.fixture
    def fs(self, served):
        return CacheSetFileSystem(runtime_dir=str(served.runtime), skip_instance_cache=True)

    @pytest.fixture
    def fs_path(self):
        return ""

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(part for part in parts if part)

    @pytest.fixture
    def local_fs(self):
        return LocalFileSystem(auto_mkdir=True)

    @pytest.fixture
    def local_path(self, tmp_path):
        return make_path_posix(str(tmp_path))

    @pytest.fixture
    def supports_empty_directories(self):
        return True

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, served, tmp_path):
        return self._commit(served, self._bulk_operations_scenario_0, tmp_path)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, served, tmp_path):
        return self._commit(served, self._glob_edge_cases_files, tmp_path)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, served, tmp_path):
        return self._commit(served, self._dir_and_file_with_same_name_prefix, tmp_path)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, served, tmp_path):
        return self._commit(served, self._10_files_with_hashed_names, tmp_path)

    def _commit(self, served, build, tmp_path):
        made = build(LocalFileSystem(auto_mkdir=True), os.path.join, str(tmp_path / "made"))
        name = Path(made).name
        served.node.put(name, Path(made))
        return name


class TestGet(CacheSetFixtures, AbstractGetTests):
    """The part of fsspec's suite that a read-only filesystem can pass."""

    def test_get_directory_recursive(self, fs, served, tmp_path, local_fs, local_join, local_target):
        """The original writes its source through the filesystem under test."""
        source = tmp_path / "made" / "src"
        (source / "sub").mkdir(parents=True)
        (source / "file").write_bytes(b"1")
        (source / "sub" / "file").write_bytes(b"2")
        served.node.put("src", source)
        for given in ("src", "src/"):
            target = local_join(local_target, given.strip("/") + str(len(given)))
            fs.get(given, target, recursive=True)
            assert local_fs.cat(local_join(target, "sub", "file")) == b"2"
            assert local_fs.isfile(local_join(target, "file"))

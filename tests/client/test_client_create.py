"""Creating: what is walked, what is refused, how it is handed over, how it is cancelled."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached import wire
from cached.client import Client, CreateOptions, handover, walk
from cached.errors import (
    BadName,
    Forbidden,
    NameTaken,
    NotFound,
    SourceChanged,
    UnsupportedFile,
    UsageError,
)
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.runtime, timeout=60) as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return plant(tmp_path / "source")


def tree(top: Path) -> dict[str, tuple[str, object]]:
    found: dict[str, tuple[str, object]] = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("dir", None)
        else:
            found[name] = ("file", (path.read_bytes(), bool(path.stat().st_mode & 0o111)))
    return found


def made(daemon: Daemon) -> Path:
    return list(daemon.node.sets.values())[-1].data


def test_a_directory_becomes_the_set_with_everything_in_it(client, daemon, source):
    seen = []
    view = client.create(
        "nr", [source], CreateOptions(lease_seconds=60, share="public"), progress=seen.append
    )
    assert (view.name, view.files) == ("nr", 4)
    assert tree(made(daemon)) == tree(source)
    assert daemon.node.creations[0].mtimes["a.txt"] == 10**18 + 5
    _, name, options, size, files = daemon.node.calls[0]
    assert (name, size, files) == ("nr", view.bytes, 4)
    assert (options.lease_seconds, options.share) == (60, "public")


def test_options_are_keywords_too(client, daemon, source):
    options = CreateOptions(share="public", tier="disk", lease_seconds=1)
    client.create(
        "nr", source, options, lease="2d", min_lease="1h", replicas="all", methods="direct", tier=None
    )
    assert daemon.node.calls[0][2] == CreateOptions(
        share="public", lease_seconds=172_800, min_lease_seconds=3600, replicas=-1, methods=("direct",)
    )
    client.create("nr2", source, lease_seconds=60, share="group:lab", requirements="true", replace=True)
    assert daemon.node.calls[1][2] == CreateOptions(
        lease_seconds=60, share="group:lab", requirements="true", replace=True
    )


@pytest.mark.parametrize(
    "wishes", [{"lease": "2"}, {"tier": "tape"}, {"replicas": "many"}, {"min_lease_seconds": -1}]
)
def test_options_that_do_not_fit_are_a_usage_error(client, source, wishes):
    with pytest.raises(UsageError):
        client.create("nr", source, **wishes)


@pytest.mark.parametrize("wishes", [{"leese": "2d"}, {"lease": "2d", "lease_seconds": 1}])
def test_keywords_that_are_no_options_are_a_type_error(client, source, wishes):
    with pytest.raises(TypeError):
        client.create("nr", source, **wishes)


def test_several_paths_keep_their_base_names(client, daemon, source, tmp_path, monkeypatch):
    monkeypatch.chdir(source)
    client.create("nr", ["sub", "a.txt", source / "run.sh"])
    assert set(tree(made(daemon))) == {
        "a.txt",
        "run.sh",
        "sub",
        "sub/deep",
        "sub/deep/ünï \U0001f40d.bin",
        "sub/empty",
        "sub/link",
    }


def test_a_single_file_keeps_its_name_and_a_link_named_by_the_user_is_followed(
    client, daemon, source, tmp_path
):
    (tmp_path / "alias").symlink_to(source)
    (tmp_path / "data.bin").symlink_to(source / "a.txt")
    client.create("one", [tmp_path / "data.bin"])
    assert tree(made(daemon)) == {"data.bin": ("file", (b"hello, world\n", False))}
    client.create("two", [tmp_path / "alias"])
    assert tree(made(daemon)) == tree(source)


def test_the_working_directory_can_be_named_by_a_dot(client, daemon, source, monkeypatch):
    (source / "sub" / "link").unlink()
    monkeypatch.chdir(source / "sub")
    client.create("nr", ["."])
    assert "empty" in tree(made(daemon))
    client.create("nr2", [".", "../a.txt"])
    assert {"sub/empty", "a.txt"} <= set(tree(made(daemon)))


def test_two_paths_of_one_name_are_refused(client, source):
    with pytest.raises(UsageError, match=r"both be called 'a\.txt'"):
        client.create("nr", [source / "a.txt", source / "sub" / ".." / "a.txt"])


def test_no_path_and_a_missing_path_are_errors(client, tmp_path):
    with pytest.raises(UsageError):
        client.create("nr", [])
    with pytest.raises(NotFound, match="missing"):
        client.create("nr", [tmp_path / "missing"])


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "outside", "absolute", "name"])
def test_what_cannot_be_in_a_set_is_refused_by_name(client, daemon, source, kind):
    odd = source / "sub" / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(odd))
    elif kind == "device":
        if os.getuid():
            pytest.skip("needs root to make a device")
        os.mknod(odd, 0o600 | 0o020000, os.makedev(1, 3))
    elif kind == "outside":
        odd.symlink_to("../../elsewhere")
    elif kind == "absolute":
        odd.symlink_to("/etc/passwd")
    else:
        os.rename(os.fsencode(source / "a.txt"), os.fsencode(source / "sub") + b"/odd\xff")
    with pytest.raises((UnsupportedFile, BadName), match="odd"):
        client.create("nr", [source])
    assert not daemon.node.creations


def test_a_directory_that_cannot_be_read_is_named(daemon, source):
    (source / "sub").chmod(0)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(1)
            os.setuid(1)
            Client(daemon.runtime).create("nr", [source])
        except Forbidden as error:
            os._exit(0 if str(source / "sub") in error.message else 3)
        except BaseException:
            os._exit(4)
        finally:
            os._exit(5)
    (source / "sub").chmod(0o755)
    if os.getuid() == 0 and _traversable(source):
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    else:
        os.waitpid(child, 0)


def test_a_file_that_vanishes_before_it_is_read_is_named(client, source, monkeypatch):
    scan = walk.scan

    def scan_and_remove(paths):
        found = scan(paths)
        (source / "a.txt").unlink()
        return found

    monkeypatch.setattr(walk, "scan", scan_and_remove)
    for paths in ([source], [source / "a.txt"]):
        (source / "a.txt").touch()
        with pytest.raises(SourceChanged) as caught:
            client.create("nr", paths)
        assert caught.value.details["path"] == str(source / "a.txt")


def _traversable(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [*path.parents, path])


def test_a_file_that_changes_between_finding_and_opening_is_an_error(client, daemon, source, monkeypatch):
    scan = walk.scan

    def then_change(paths):
        found = scan(paths)
        (source / "run.sh").write_bytes(b"something else\n")
        return found

    monkeypatch.setattr(walk, "scan", then_change)
    with pytest.raises(SourceChanged, match=r"run\.sh"):
        client.create("nr", [source])
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")


@pytest.mark.parametrize("swap", ["link", "fifo", "gone"])
def test_a_file_swapped_for_something_else_is_never_followed(client, daemon, source, monkeypatch, swap):
    scan = walk.scan

    def then_swap(paths):
        found = scan(paths)
        (source / "run.sh").unlink()
        if swap == "link":
            (source / "run.sh").symlink_to("/etc/passwd")
        elif swap == "fifo":
            os.mkfifo(source / "run.sh")
        return found

    monkeypatch.setattr(walk, "scan", then_swap)
    with pytest.raises(SourceChanged, match=r"run\.sh"):
        client.create("nr", [source])


def test_a_refusal_comes_as_the_error_that_it_is(client, daemon, source):
    daemon.node.begin_error = NameTaken("root already has a set nr", hint="--replace")
    with pytest.raises(NameTaken, match="already has"):
        client.create("nr", [source])


def test_an_error_in_the_middle_of_many_packets_is_reported_and_cancels(client, daemon, source):
    for number in range(1500):
        (source / f"f{number}").write_bytes(b"x")
    daemon.node.add_error = SourceChanged("f7 changed while it was read")
    with pytest.raises(SourceChanged, match="f7"):
        client.create("nr", [source])
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")


def test_an_interrupt_cancels_the_creation(client, daemon, source):
    daemon.hold()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.create("nr", [source], progress=interrupt)
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")
    daemon.go_on()
    assert client.create("nr", [source]).name == "nr"


@pytest.mark.parametrize(("small", "entries", "descriptors"), [(-1, 1000, 100), (1 << 16, 1000, 1)])
def test_many_files_go_in_few_packets_with_few_descriptors_open(
    client, daemon, tmp_path, monkeypatch, small, entries, descriptors
):
    monkeypatch.setattr(handover, "_SMALL", small)
    many = tmp_path / "many"
    for folder in range(20):
        (many / f"d{folder}").mkdir(parents=True)
        for number in range(100):
            (many / f"d{folder}" / f"f{number}").write_bytes(b"%d" % number)
    before = len(os.listdir("/proc/self/fd"))
    assert client.create("nr", [many]).files == 2000
    assert max(count for count, _ in daemon.node.packets) <= entries
    assert max(count for _, count in daemon.node.packets) == descriptors
    assert tree(made(daemon)) == tree(many)
    daemon.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)


def test_long_names_do_not_overfill_a_packet(client, daemon, tmp_path):
    deep = tmp_path / "deep" / ("d" * 250) / ("e" * 250) / ("\u00e9" * 120)
    deep.mkdir(parents=True)
    for number in range(300):
        (deep / f"{number:03d}{chr(34) * 240}").write_bytes(b"")
    assert client.create("nr", [tmp_path / "deep"]).files == 300


def test_a_tree_deeper_than_the_limit_of_open_files_is_walked(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d" * 8, dir_fd=here)
        below = os.open("d" * 8, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        (source,) = walk.scan([tmp_path])
        opened = [(found.path, os.close(fd)) for found, fd in source.files() if fd >= 0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert opened == [("/".join(["d" * 8] * 300 + ["bottom"]), None)]


def test_hard_linked_files_are_just_files(client, daemon, source):
    os.link(source / "a.txt", source / "same.txt")
    client.create("nr", [source])
    assert tree(made(daemon)) == tree(source)


def test_wait_follows_the_replicas(client, daemon, source):
    assert client.create("nr", [source], CreateOptions(wait=True)).name == "nr"
    assert any(call[0] == "replicate" and call[3] is True for call in daemon.node.calls)
    assert daemon.node.calls[0][2].wait is False


def test_small_and_large_files_between_each_other_come_as_they_are(client, daemon, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number in range(60):
        size = (0, 1, 65_536, 65_537, 200_000)[number % 5]
        (mixed / f"f{number:02d}").write_bytes(os.urandom(size))
    assert client.create("nr", [mixed]).files == 60
    assert tree(made(daemon)) == tree(mixed)


def test_a_daemon_without_bundles_gets_descriptors(client, daemon, source, monkeypatch):
    monkeypatch.setattr(wire, "BUNDLE_BYTES", 0)
    client.create("nr", [source])
    assert tree(made(daemon)) == tree(source)
    assert sum(count for _, count in daemon.node.packets) == len(
        [p for p in source.rglob("*") if p.is_file() and not p.is_symlink()]
    )


def test_a_small_file_that_changes_while_it_is_read_is_an_error(client, daemon, source, monkeypatch):
    read = os.pread

    def read_and_change(fd, size, at):
        data = read(fd, size, at)
        if data == b"#!/bin/sh\n" or b"sh" in data:
            (source / "run.sh").write_bytes(data[::-1])
        return data

    monkeypatch.setattr(os, "pread", read_and_change)
    os.utime(source / "run.sh", ns=(1, 1))
    with pytest.raises(SourceChanged, match=r"run\.sh"):
        client.create("nr", [source])


def test_a_small_file_that_got_another_name_since_it_was_found_has_not_changed(tmp_path):
    (tmp_path / "f").write_bytes(b"bytes")
    (source,) = walk.scan([tmp_path / "f"])
    time.sleep(0.02)
    os.link(tmp_path / "f", tmp_path / "g")
    assert [(found.path, data) for found, data in source.files(small=100)] == [("f", b"bytes")]


@pytest.mark.parametrize("instead", ["fifo", "directory", "other bytes", "longer"])
def test_what_took_the_place_of_a_small_file_is_not_read_for_it(tmp_path, instead):
    path = tmp_path / "d" / "f"
    path.parent.mkdir()
    path.write_bytes(b"bytes")
    (source,) = walk.scan([path.parent])
    path.unlink()
    if instead == "fifo":
        os.mkfifo(path)
    elif instead == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"other" if instead == "other bytes" else b"bytes and more")
        os.utime(path, ns=(1, 1))
    open_before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceChanged):
        list(source.files(small=100))
    assert set(os.listdir("/proc/self/fd")) == open_before


def test_a_bundle_that_the_kernel_takes_in_parts_is_whole(monkeypatch):
    parts = [bytes([number]) * (number * 100) for number in range(1, 50)]
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: os.pwrite(fd, b"".join(buffers)[:1234], at))
    bundles = handover.Bundles(1 << 20)
    assert os.pread(bundles.fill(parts), 1 << 20, 0) == b"".join(parts)
    bundles.close()


def test_the_window_is_never_exceeded(client, daemon, source):
    assert handover._WINDOW * handover._MOST_ENTRIES < 1024

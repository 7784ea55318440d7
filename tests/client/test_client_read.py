"""The client against the real sockets: opening, pins, threads, forks, restarts."""

from __future__ import annotations

import fcntl
import gc
import io
import mmap
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cached
import pytest
from cached import packets, wire
from cached.client import Client, channel, endpoint
from cached.client.endpoint import Endpoint
from cached.errors import DaemonUnreachable, NotFound, TimedOut, UsageError
from tests.api.fake_daemon import Daemon, plant, running
from tests.api.fake_node import FakeSet


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.runtime, timeout=60) as client:
        yield client


def only(daemon: Daemon) -> FakeSet:
    return next(iter(daemon.node.sets.values()))


def test_open_returns_a_real_file(client):
    with client.open("nr/a.txt") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.read() == b"hello, world\n"
        assert file.seek(7) == 7
        assert file.read(5) == b"world"
        assert fcntl.fcntl(file.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            assert memory[:5] == b"hello"
        assert Path(file.name).read_bytes() == b"hello, world\n"


def test_a_directory_is_not_opened_as_a_file_nor_a_file_as_a_directory(client, daemon):
    with pytest.raises(UsageError, match="is a directory"):
        client.open("nr/sub")
    with pytest.raises(UsageError, match="is a file"):
        client.open_dir("nr/a.txt")
    daemon.until(lambda: not +daemon.node.pins)


def test_open_dir_reads_everything_below_by_descriptor_and_by_path(client):
    with client.open_dir("nr") as opened:
        assert opened.set.name == "nr"
        assert sorted(os.listdir(opened.fileno())) == ["a.txt", "empty-dir", "run.sh", "sub"]
        assert Path(opened.path, "sub", "link").read_bytes() == b"hello, world\n"
    assert opened.fd == -1


def test_a_set_is_pinned_while_anything_of_it_is_open(client, daemon):
    first, second = client.open("nr/a.txt"), client.open("nr/run.sh")
    assert daemon.node.pins[only(daemon).id] == 1
    first.close()
    daemon.settle()
    assert daemon.node.pins[only(daemon).id] == 1
    second.close()
    daemon.until(lambda: not +daemon.node.pins)


def test_a_file_that_is_forgotten_gives_its_pin_back(client, daemon):
    client.open("nr/a.txt")
    gc.collect()
    daemon.until(lambda: not +daemon.node.pins)


def test_closing_the_client_leaves_open_files_pinned(client, daemon):
    file = client.open("nr/a.txt")
    client.close()
    daemon.settle()
    assert daemon.node.pins[only(daemon).id] == 1
    file.close()
    del file
    daemon.until(lambda: not +daemon.node.pins)


def test_many_opens_and_closes_need_one_connection(client, daemon):
    for _ in range(300):
        client.open("nr/a.txt").close()
    assert len(daemon.handles._connections) == 1


def test_threads_share_a_client(client, daemon):
    def read(_: int) -> bytes:
        with client.open("nr/a.txt") as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(400))) == {b"hello, world\n"}
    daemon.until(lambda: not +daemon.node.pins)


def test_a_slow_fetch_holds_up_no_other_thread(client, daemon):
    daemon.node.put("far", only(daemon).data).here = False
    daemon.hold()
    seen: list[wire.Progress] = []
    result: list[bytes] = []

    def fetch() -> None:
        with client.open("far/a.txt", progress=seen.append) as file:
            result.append(file.read())

    thread = threading.Thread(target=fetch)
    thread.start()
    with client.open("nr/a.txt") as file:
        assert file.read() == b"hello, world\n"
    daemon.go_on()
    thread.join(120)
    assert result == [b"hello, world\n"]
    assert [report.bytes_present for report in seen] == [1, 2]


def test_no_fetch_refuses_to_wait(client, daemon):
    only(daemon).here = False
    with pytest.raises(NotFound):
        client.open("nr/a.txt", fetch=False)


def test_after_a_fork_parent_and_child_each_have_their_own_connection(client, daemon):
    held = client.open("nr/a.txt")
    child = os.fork()
    if not child:
        try:
            held.close()
            good = client.open("nr/run.sh").read() == b"#!/bin/sh\n" and client.show("nr").name == "nr"
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert daemon.node.pins[only(daemon).id] >= 1
    assert held.read() == b"hello, world\n"
    assert client.open("nr/run.sh").read() == b"#!/bin/sh\n"


def test_a_restarted_daemon_is_found_again(client, daemon):
    assert client.show("nr").name == "nr"
    client.open("nr/a.txt").close()
    held = client.open_dir("nr")
    daemon.stop()
    assert "a.txt" in os.listdir(held.fd)
    timer = threading.Timer(0.2, daemon.start)
    timer.start()
    with client.open("nr/a.txt") as file:
        assert file.read() == b"hello, world\n"
    timer.join()
    assert client.show("nr").name == "nr"
    assert client.delete("nr").state == "WITHDRAWN"
    held.close()


def test_an_interrupted_request_does_not_confuse_the_next_one(client, daemon, monkeypatch):
    only(daemon).here = False
    held_by = daemon.node.put("near", only(daemon).data)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    near = client.open("near/run.sh")
    with pytest.raises(KeyboardInterrupt):
        client.open("nr/a.txt", progress=interrupt)
    assert client.open("near/a.txt").read() == b"hello, world\n"
    assert daemon.node.pins[held_by.id] >= 1
    assert near.read() == b"#!/bin/sh\n"


def test_who_is_interrupted_while_it_stays_awake_asks_anew_on_another_connection(client, monkeypatch):
    client.open("nr/a.txt").close()

    class Interrupted:
        def keep(self, _: object) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(channel._LATER, wire.OpenReply, Interrupted())
        with pytest.raises(KeyboardInterrupt):
            client.open("nr/a.txt")
    assert client.open("nr/run.sh").read() == b"#!/bin/sh\n"


def test_a_daemon_that_says_nothing_is_given_up_after_the_timeout(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(str(tmp_path / "data.sock"))
        silent.listen()
        with Client(tmp_path, timeout=0.05) as client, pytest.raises(TimedOut, match=r"0\.05 s"):
            client.open("nr/a.txt")


def test_without_a_daemon_the_error_names_every_socket_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHED_RUNTIME_DIR", str(tmp_path / "none"))
    for call in (Client().list, lambda: Client().open("nr/a.txt")):
        with pytest.raises(DaemonUnreachable) as caught:
            call()
        assert str(tmp_path / "none") in caught.value.hint
        assert str(tmp_path / "none") in str(caught.value.details)


def test_sockets_in_a_very_long_directory_work(tmp_path):
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    with running(deep) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        with Client(daemon.runtime) as client:
            assert client.open("nr/a.txt").read() == b"hello, world\n"
            assert client.show("nr").name == "nr"


def test_a_client_is_pickled_by_its_arguments(client):
    client.open("nr/a.txt").close()
    again = pickle.loads(pickle.dumps(client))
    assert again.open("nr/a.txt").read() == b"hello, world\n"


def test_no_descriptors_are_left_behind(daemon):
    before = len(os.listdir("/proc/self/fd"))
    with Client(daemon.runtime) as client:
        for path in ("nr/a.txt", "nr/run.sh"):
            client.open(path).close()
        with pytest.raises(NotFound):
            client.open("nr/none")
        client.list()
    daemon.until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_answers_without_a_descriptor_are_an_error_and_not_a_crash(tmp_path):
    import socket

    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(tmp_path / "data.sock"))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        packets.receive(connection)
        head = wire.SetHead(id="1", name="n", owner="o", content="c")
        packets.send(connection, wire.encode(wire.OpenReply(set=head, kind="file")))
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(Exception, match="without a descriptor"):
        Client(tmp_path, timeout=60).open("n/x")
    thread.join(120)
    server.close()


def test_what_is_loaded_when_it_is_used_is_listed_all_the_same():
    assert {"Client", "AsyncClient", "open", "NotFound"} <= set(dir(cached))


@pytest.mark.parametrize("folder", ["/tmp/cached-7", "/tmp/cached-7/", "//tmp/cached-7", "/tmp/./cached-7"])
def test_a_directory_that_anybody_could_have_made_is_looked_at_however_it_is_written(folder, monkeypatch):
    looked = []
    monkeypatch.setattr(endpoint, "_check_owner", looked.append)
    with pytest.raises(DaemonUnreachable):
        Endpoint(folder).connect("api.sock", socket.SOCK_STREAM, 1)
    with pytest.raises(DaemonUnreachable):
        Endpoint("/tmp/other/cached-7").connect("api.sock", socket.SOCK_STREAM, 1)
    assert looked == [folder.rstrip("/")]

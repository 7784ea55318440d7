"""`data.sock` as a program without our client sees it: raw packets on a real socket."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from cached import packets
from cached.errors import OriginUnavailable, SourceChanged
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, connections_per_user=8) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon


class Raw:
    def __init__(self, daemon: Daemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(60)
        self.socket.connect(str(daemon.runtime / "data.sock"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, descriptors=(), **request):
        packets.send(self.socket, json.dumps({"v": 1, **request}).encode(), descriptors)

    def receive(self):
        packet = packets.receive(self.socket)
        assert packet is not None
        return json.loads(packet.data), packet.descriptors

    def ask(self, descriptors=(), **request):
        self.send(descriptors, **request)
        return self.receive()

    def code(self, descriptors=(), **request):
        value, descriptors = self.ask(descriptors, **request)
        packets.close_all(descriptors)
        return value.get("error", {}).get("code", "ok")


def test_open_answers_with_a_descriptor_that_is_closed_on_exec(daemon):
    with Raw(daemon) as raw:
        value, (fd,) = raw.ask(op="open", name="nr", path="a.txt")
        assert value["ok"] is True
        assert value["kind"] == "file"
        assert value["size"] == 13
        assert value["set"]["name"] == "nr"
        assert os.pread(fd, 100, 0) == b"hello, world\n"
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(fd)


def test_the_path_may_be_part_of_the_name_and_no_path_is_the_root_directory(daemon):
    with Raw(daemon) as raw:
        value, (fd,) = raw.ask(op="open", name="nr/sub")
        assert value["kind"] == "dir"
        assert sorted(os.listdir(fd)) == ["deep", "empty", "link"]
        os.close(fd)
        value, (fd,) = raw.ask(op="open", name="nr")
        assert "a.txt" in os.listdir(fd)
        os.close(fd)


def test_pipelined_requests_are_answered_in_order_also_when_the_first_one_takes_long(daemon):
    found = next(iter(daemon.node.sets.values()))
    found.here = False
    daemon.hold()
    with Raw(daemon) as raw, Raw(daemon) as other:
        raw.send(op="open", name="nr", path="a.txt")
        raw.send(op="open", name="nothing")
        raw.send(op="open", name="nr", path="run.sh")
        assert other.code(op="open", name="nothing") == "not_found"
        daemon.go_on()
        value, (fd,) = raw.receive()
        assert value["size"] == 13
        os.close(fd)
        assert raw.receive()[0]["error"]["code"] == "not_found"
        value, (fd,) = raw.receive()
        assert value["executable"] is True
        os.close(fd)


def test_many_pipelined_requests_are_answered_in_order_also_where_some_want_no_answer(daemon):
    with Raw(daemon) as raw:
        value, (fd,) = raw.ask(op="open", name="nr", path="a.txt")
        os.close(fd)
        names = ["a.txt", "missing", "sub", "a.txt"] * 8
        for name in names:
            raw.send(op="close", set=value["set"]["id"], answer=False)
            raw.send(op="open", name="nr", path=name)
        for name in names:
            answer, descriptors = raw.receive()
            assert answer.get("kind") == {"a.txt": "file", "sub": "dir"}.get(name), name
            assert answer.get("error", {}).get("code") == ("not_found" if name == "missing" else None)
            assert len(descriptors) == (name != "missing")
            packets.close_all(descriptors)
        assert daemon.node.pins.total() == 1


def test_a_client_that_never_stops_asking_starves_nobody(daemon):
    close = json.dumps({"v": 1, "op": "close", "set": "none", "answer": False}).encode()
    with Raw(daemon) as greedy, Raw(daemon) as other:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                packets.send(greedy.socket, close)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(50):
                assert other.code(op="open", name="nr", path="a.txt") == "ok"
        finally:
            stop.set()
            thread.join(60)
        assert greedy.code(op="open", name="nr", path="a.txt") == "ok"


def test_a_request_that_was_there_before_the_connection_was_accepted_is_answered(daemon):
    daemon.loop.call_soon_threadsafe(time.sleep, 0.2)
    with Raw(daemon) as raw:
        assert raw.code(op="open", name="nr", path="a.txt") == "ok"
    daemon.until(lambda: not +daemon.node.pins)


def test_a_client_that_left_before_it_was_accepted_leaves_nothing(daemon):
    daemon.loop.call_soon_threadsafe(time.sleep, 0.2)
    for _ in range(20):
        with Raw(daemon) as raw:
            raw.send(op="open", name="nr", path="a.txt")
        daemon.until(lambda: not daemon.handles._connections)
    daemon.until(lambda: not +daemon.node.pins)


def test_progress_comes_before_the_answer_when_it_was_asked_for(daemon):
    next(iter(daemon.node.sets.values())).here = False
    with Raw(daemon) as raw:
        raw.send(op="open", name="nr", path="a.txt", progress=True)
        seen = []
        while "progress" in (value := (answer := raw.receive())[0]):
            seen.append(value["progress"]["bytes_present"])
        assert value["ok"]
        os.close(answer[1][0])
        assert seen == [1, 2]


def test_no_fetch_is_not_found_when_the_node_has_no_replica(daemon):
    next(iter(daemon.node.sets.values())).here = False
    with Raw(daemon) as raw:
        assert raw.code(op="open", name="nr", path="a.txt", fetch=False) == "not_found"


def test_one_pin_a_set_and_connection_given_back_by_close_or_by_leaving(daemon):
    set_id = next(iter(daemon.node.sets))
    with Raw(daemon) as raw:
        for _ in range(3):
            os.close(raw.ask(op="open", name="nr", path="a.txt")[1][0])
        assert daemon.node.pins[set_id] == 1
        assert raw.ask(op="close", set=set_id)[0] == {"v": 1, "ok": True}
        assert daemon.node.pins[set_id] == 0
        os.close(raw.ask(op="open", name="nr", path="a.txt")[1][0])
    daemon.until(lambda: daemon.node.pins[set_id] == 0)


def test_a_client_that_leaves_while_it_waits_loses_neither_pin_nor_descriptor(daemon):
    found = next(iter(daemon.node.sets.values()))
    found.here = False
    daemon.hold()
    before = len(os.listdir("/proc/self/fd"))
    with Raw(daemon) as raw:
        raw.send(op="open", name="nr", path="a.txt")
        daemon.settle()
    daemon.go_on()
    daemon.until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert daemon.node.pins[found.id] == 0


def test_pins_are_not_given_back_when_the_daemon_stops(tmp_path):
    with running(tmp_path) as daemon:
        found = daemon.node.put("nr", plant(tmp_path / "source"))
        with Raw(daemon) as raw:
            os.close(raw.ask(op="open", name="nr")[1][0])
            daemon.stop()
            assert daemon.node.pins[found.id] == 1
            daemon.start()


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"{", "usage"),
        (b"[]", "usage"),
        (b'{"v":2,"op":"open","name":"nr"}', "usage"),
        (b'{"v":1,"op":"fly"}', "usage"),
        (b'{"v":1,"op":"open","name":"../x"}', "bad_name"),
        (b'{"v":1,"op":"open","name":"nr","path":"a/../../b"}', "bad_name"),
        (b'{"v":1,"op":"open","name":7}', "usage"),
        (b'{"v":1,"op":"add","entries":[]}', "usage"),
        (b'{"v":1,"op":"seal"}', "usage"),
        (b'{"v":1,"op":"open","name":"nr","path":"explode"}', "failed"),
        (b"\xff\xfe", "usage"),
        (b'{"op":"open","unknown":' + b"[" * 150_000, "usage"),
        (b'{"op":"add","entries":[{"path":"a","kind":"dir","mtime_ns":9223372036854775808}]}', "usage"),
        (b'{"op":"create","name":"x","options":{"min_lease_seconds":1' + b"0" * 400 + b"}}", "usage"),
    ],
)
def test_nonsense_gets_an_error_and_the_connection_goes_on(daemon, packet, code):
    with Raw(daemon) as raw:
        raw.socket.send(packet)
        answer = raw.receive()[0]
        assert answer["error"]["code"] == code
        assert "secret" not in json.dumps(answer)
        assert raw.code(op="open", name="nr") == "ok"


def test_descriptors_that_nobody_asked_for_are_closed(daemon):
    before = len(os.listdir("/proc/self/fd"))
    with Raw(daemon) as raw:
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
        for op in ("open", "add", "close", "fly"):
            packets.close_all(raw.ask(fds, op=op, name="nr")[1])
        packets.send(raw.socket, b'{"op":"add","deep":' + b"[" * 150_000, fds)
        assert raw.receive()[0]["error"]["code"] == "usage"
        packets.close_all(fds)
    daemon.until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def send_until_it_would_block(raw, daemon):
    sent = 0
    try:
        while sent < 10_000:
            raw.send(op="open", name="nr", path="a.txt")
            sent += 1
            if sent % 50 == 0:
                daemon.settle()
    except BlockingIOError:
        pass
    return sent


def test_a_client_that_does_not_read_blocks_nobody_and_is_bounded(daemon):
    with Raw(daemon) as lazy, Raw(daemon) as other:
        lazy.socket.setblocking(False)
        sent = send_until_it_would_block(lazy, daemon)
        assert sent < 10_000
        assert other.code(op="open", name="nr") == "ok"
        lazy.socket.settimeout(60)
        for _ in range(sent):
            value, (fd,) = lazy.receive()
            assert value["ok"]
            os.close(fd)


def test_a_user_has_a_limited_number_of_connections(daemon):
    held = [Raw(daemon) for _ in range(8)]
    try:
        assert all(raw.code(op="open", name="nr") == "ok" for raw in held)
        with Raw(daemon) as ninth:
            assert ninth.receive()[0]["error"]["code"] == "busy"
    finally:
        for raw in held:
            raw.socket.close()
    daemon.until(lambda: not daemon.handles._connections)
    with Raw(daemon) as raw:
        assert raw.code(op="open", name="nr") == "ok"


def test_descriptors_that_wait_with_the_requests_of_one_user_are_limited_over_all_connections(tmp_path):
    with running(tmp_path, descriptors_per_user=100) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        next(iter(daemon.node.sets.values())).here = False
        daemon.hold()
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(60)]
        with Raw(daemon) as one, Raw(daemon) as two:
            for raw in (one, two):
                raw.send(op="open", name="nr", path="a.txt")
                raw.send(fds, op="add", entries=[])
                daemon.settle()
            daemon.until(lambda: daemon.handles._held.total() == 60)
            daemon.go_on()
            codes = []
            for raw in (one, two):
                packets.close_all(raw.receive()[1])
                codes.append(raw.receive()[0]["error"]["code"])
            assert sorted(codes) == ["busy", "usage"]
            daemon.until(lambda: not daemon.handles._held)
        packets.close_all(fds)


def create(raw, tmp_path, *, files=1, **more):
    (tmp_path / "in").mkdir(exist_ok=True)
    value, _ = raw.ask(op="create", name="made", bytes=4 * files, files=files, **more)
    assert value["ok"], value
    assert value["lease_seconds"] == 86400
    (tmp_path / "in" / "f").write_bytes(b"data")
    return os.open(tmp_path / "in" / "f", os.O_RDONLY)


def entry(path):
    return {"path": path, "kind": "file", "size": 4, "mtime_ns": 1, "executable": False, "target": ""}


def test_create_add_seal_commits_a_set(daemon, tmp_path):
    with Raw(daemon) as raw:
        fd = create(raw, tmp_path, files=2)
        folder = {"path": "d", "kind": "dir"}
        link = {"path": "d/l", "kind": "link", "target": "../f"}
        raw.send([fd], op="add", entries=[folder, link, entry("f")])
        raw.send([fd], op="add", entries=[entry("d/g")])
        assert raw.receive()[0]["bytes_done"] == 4
        assert raw.receive()[0]["bytes_done"] == 8
        made = raw.ask(op="seal")[0]["set"]
        assert (made["name"], made["files"], made["bytes"]) == ("made", 2, 8)
        assert raw.code(op="open", name="made/d/l") == "ok"
        assert daemon.node.creations[0].state == "sealed"
        assert raw.code(op="seal") == "usage"


def test_leaving_before_the_seal_aborts_the_creation(daemon, tmp_path):
    with Raw(daemon) as raw:
        raw.ask([create(raw, tmp_path)], op="add", entries=[entry("f")])
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")


def test_leaving_while_files_are_copied_aborts_the_creation(daemon, tmp_path):
    with Raw(daemon) as raw:
        fd = create(raw, tmp_path)
        daemon.hold()
        raw.send([fd], op="add", entries=[entry("f")])
        daemon.settle()
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")


def test_a_seal_runs_to_its_end_though_the_client_has_left(daemon, tmp_path):
    with Raw(daemon) as raw:
        raw.ask([create(raw, tmp_path)], op="add", entries=[entry("f")])
        daemon.hold()
        raw.send(op="seal")
        daemon.settle()
    daemon.go_on()
    daemon.until(lambda: daemon.node.creations[0].state == "sealed")


def test_a_failed_add_ends_the_creation_and_all_that_follows_says_why(daemon, tmp_path):
    with Raw(daemon) as raw:
        fd = create(raw, tmp_path)
        daemon.node.add_error = SourceChanged("f changed")
        for _ in range(3):
            raw.send([fd], op="add", entries=[entry("f")])
        raw.send(op="seal")
        assert [raw.receive()[0]["error"]["code"] for _ in range(4)] == ["source_changed"] * 4
        assert daemon.node.creations[0].state == "aborted"
        daemon.node.add_error = None
        os.close(create(raw, tmp_path))


def test_a_packet_that_was_not_understood_ends_the_creation(daemon, tmp_path):
    with Raw(daemon) as raw:
        os.close(create(raw, tmp_path))
        raw.socket.send(b'{"v":1,"op":"add","entries":[{"path":1}]}')
        assert raw.receive()[0]["error"]["code"] == "usage"
        assert raw.code(op="seal") == "usage"
        assert daemon.node.creations[0].state == "aborted"


def test_files_and_descriptors_must_agree(daemon, tmp_path):
    with Raw(daemon) as raw:
        fd = create(raw, tmp_path)
        assert raw.code([fd, fd], op="add", entries=[entry("f")]) == "usage"
        assert daemon.node.creations[0].state == "aborted"


def test_a_creation_reports_while_it_copies(daemon, tmp_path):
    with Raw(daemon) as raw:
        fd = create(raw, tmp_path, progress=True)
        daemon.hold()
        raw.send([fd], op="add", entries=[entry("f")])
        report = raw.receive()[0]["progress"]
        assert report["bytes_wanted"] == 4
        assert report["state"] == "COPYING"
        daemon.go_on()
        while "progress" in (value := raw.receive()[0]):
            pass
        assert value["ok"]


def test_a_set_made_of_objects_is_drawn_and_sealed_and_nothing_is_handed_over(daemon):
    daemon.node.objects = {"f": b"data", "g": b"more"}
    with Raw(daemon) as raw:
        raw.ask(op="create", name="made", options={"source": "gs://b/in"}, progress=True)
        assert raw.ask(op="draw")[0]["bytes_done"] == 8
        assert raw.ask(op="seal")[0]["set"]["name"] == "made"


def test_leaving_while_objects_are_drawn_aborts_the_creation(daemon):
    with Raw(daemon) as raw:
        raw.ask(op="create", name="made", options={"source": "gs://b/in"})
        daemon.hold()
        raw.send(op="draw")
        daemon.settle()
    daemon.until(lambda: daemon.node.creations[0].state == "aborted")


def test_a_seal_whose_set_does_not_get_into_the_origin_says_so_and_the_set_stays(daemon, tmp_path):
    daemon.node.kept_error = OriginUnavailable("gs://b/out/f: HTTP 503")
    with Raw(daemon) as raw:
        raw.ask([create(raw, tmp_path, options={"origin": "gs://b/out"})], op="add", entries=[entry("f")])
        assert raw.code(op="seal") == "origin_unavailable"
    assert daemon.node.creations[0].state == "sealed"

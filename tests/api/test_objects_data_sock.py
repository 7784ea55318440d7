"""Objects on `data.sock`: raw packets on a real socket, a fake Cloud Storage behind it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached import packets
from cached.api import exchange
from tests.api.fake_daemon import Daemon, running
from tests.api.test_data_sock import Raw

DATA = b"GATTACA\n" * 1000


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.cloud.plant("gs://genomes/chr/1.fa", DATA, content_type="text/plain")
        yield daemon


def memory(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def test_an_object_comes_with_one_read_only_descriptor(daemon):
    with Raw(daemon) as raw:
        value, (fd,) = raw.ask(op="object", address="gs://genomes/chr/1.fa", token="tok-ada", scope="b7")
        assert value["ok"] is True
        assert value["object"]["address"] == f"gs://genomes/chr/1.fa#{value['object']['generation']}"
        assert (value["size"], value["tier"], value["through"]) == (len(DATA), "disk", False)
        assert os.pread(fd, len(DATA) + 1, 0) == DATA
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(fd)
    assert daemon.node.cloud.seen == ["tok-ada"]
    assert daemon.node.cloud.calls == [("open", "gs://genomes/chr/1.fa", "b7", "auto")]


def test_each_open_has_a_pin_of_its_own_that_close_gives_back(daemon):
    cloud = daemon.node.cloud
    with Raw(daemon) as raw:
        pins = []
        for _ in range(3):
            value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa")
            packets.close_all(descriptors)
            pins.append(value["pin"])
        assert len(set(pins)) == 3
        assert raw.code(op="close", set=pins[0]) == "ok"
        assert raw.code(op="close", set=pins[0]) == "ok"  # given back once, whatever the client says
        assert sum(cloud.pins.values()) == 2
    daemon.until(lambda: not +cloud.pins)


def test_a_close_that_wants_no_answer_gets_none(daemon):
    cloud = daemon.node.cloud
    with Raw(daemon) as raw:
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa")
        packets.close_all(descriptors)
        raw.send(op="close", set=value["pin"], answer=False)
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa")
        packets.close_all(descriptors)
        assert "object" in value
        assert sum(cloud.pins.values()) == 1


def test_nobody_gives_back_the_pin_of_another_connection(daemon):
    with Raw(daemon) as one, Raw(daemon) as two:
        value, descriptors = one.ask(op="object", address="gs://genomes/chr/1.fa")
        packets.close_all(descriptors)
        assert two.code(op="close", set=value["pin"]) == "ok"
        assert sum(daemon.node.cloud.pins.values()) == 1


def test_a_connection_keeps_so_many_objects_and_no_more(daemon, monkeypatch):
    monkeypatch.setattr(exchange, "MOST_PINS", 2)
    with Raw(daemon) as raw:
        codes = [raw.code(op="object", address="gs://genomes/chr/1.fa") for _ in range(3)]
        assert codes == ["ok", "ok", "busy"]
        assert raw.code(op="put", address="gs://genomes/new", descriptors=[]) == "usage"


def test_within_the_window_of_freshness_it_is_answered_at_once(daemon):
    daemon.node.cloud.fresh.add("chr/1.fa")
    with Raw(daemon) as raw:
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa", scope="s")
        packets.close_all(descriptors)
        assert value["ok"] is True
    assert daemon.node.cloud.calls == [("now", "gs://genomes/chr/1.fa", "s")]


def test_progress_comes_before_the_answer_to_who_asked_for_it(daemon):
    with Raw(daemon) as raw:
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa", progress=True)
        assert value["progress"]["state"] == "TRANSFERRING"
        assert not descriptors
        while "progress" in value:
            value, descriptors = raw.receive()
        assert value["ok"] is True
        packets.close_all(descriptors)
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa")
        assert "ok" in value
        packets.close_all(descriptors)


def test_who_waits_is_told_why_as_often_as_nothing_moves(daemon, monkeypatch):
    monkeypatch.setattr(exchange, "HEARTBEAT", 0.05)
    cloud = daemon.node.cloud
    cloud.waits_for = "Cloud Storage does not answer"
    daemon.hold()
    with Raw(daemon) as raw:
        value, _ = raw.ask(op="object", address="gs://genomes/chr/1.fa", progress=True)
        while not value["progress"]["reason"]:
            value, _ = raw.receive()
        assert value["progress"]["reason"] == "Cloud Storage does not answer"
        assert value["progress"]["bytes_present"], "what has come is told as before"
        daemon.go_on()
        while "progress" in value:
            value, descriptors = raw.receive()
        assert value["ok"] is True
        packets.close_all(descriptors)


def test_what_nothing_can_keep_comes_without_a_descriptor_and_without_a_pin(daemon):
    daemon.node.cloud.through.add("chr/1.fa")
    with Raw(daemon) as raw:
        value, descriptors = raw.ask(op="object", address="gs://genomes/chr/1.fa", keep="none")
        assert (value["through"], value["pin"], descriptors) == (True, "", [])


@pytest.mark.parametrize(
    "address",
    ["", "chr/1.fa", "gs://", "gs://UPPER/x", "gs://genomes", "gs://genomes/", "gs://genomes/" + "x" * 1025,
     "gs://genomes/a\nb", "gs://genomes/..", "gs://" + "b" * 100_000 + "/x", "s3://genomes/x"],
)  # fmt: skip
def test_an_address_that_is_none_is_a_usage_error(daemon, address):
    with Raw(daemon) as raw:
        assert raw.code(op="object", address=address) == "usage"
        fd = memory(b"x")
        assert raw.code(op="put", address=address, descriptors=[fd]) == "usage"
        os.close(fd)
    assert not daemon.node.cloud.calls


@pytest.mark.parametrize(
    "token", ["tok-secret\r\nX-Evil: 1", "tok-secret two", "tök-secret", "tok-secret" * 1000]
)
def test_a_token_that_cannot_stand_in_a_header_is_refused_and_not_repeated(daemon, token, caplog):
    caplog.set_level(logging.DEBUG)
    with Raw(daemon) as raw:
        value, _ = raw.ask(op="object", address="gs://genomes/chr/1.fa", token=token)
        assert value["error"]["code"] == "usage"
        assert "secret" not in json.dumps(value)
    assert "secret" not in caplog.text
    assert not daemon.node.cloud.seen


def test_tokens_stand_in_no_error_no_log_and_no_metric(daemon, caplog):
    caplog.set_level(logging.DEBUG)
    daemon.node.cloud.tokens = {"tok-good"}
    with Raw(daemon) as raw:
        for address in ("gs://genomes/chr/1.fa", "gs://genomes/none", "gs://genomes/explode"):
            value, _ = raw.ask(op="object", address=address, token="tok-secret")
            assert "error" in value
            assert "secret" not in json.dumps(value)
        value, _ = raw.ask(op="object", address=["gs://genomes/x"], token="tok-secret")
        assert "secret" not in json.dumps(value)
    assert "tok-secret" not in caplog.text
    with Raw(daemon) as raw, socket.socket(socket.AF_UNIX) as http:
        assert raw.code(op="object", address="gs://genomes/chr/1.fa", token="tok-good") == "ok"
        http.connect(str(daemon.runtime / "api.sock"))
        http.settimeout(60)
        http.sendall(b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b""
        while part := http.recv(65536):
            text += part
    assert b'op="object"' in text
    assert b"tok-" not in text
    assert b"genomes" not in text


@pytest.mark.parametrize(
    "wrong",
    [{"token": 7}, {"token": None}, {"keep": "for ever"}, {"if_generation": -1}, {"if_generation": 2**63},
     {"metadata": {"a": 1}}, {"metadata": []}, {"scope": 1}, {"address": None}],
)  # fmt: skip
def test_fields_of_another_kind_are_refused_and_the_conversation_goes_on(daemon, wrong):
    with Raw(daemon) as raw:
        assert raw.code(**{"op": "object", "address": "gs://genomes/chr/1.fa", **wrong}) == "usage"
        assert raw.code(op="object", address="gs://genomes/chr/1.fa") == "ok"


def test_what_cloud_storage_says_is_what_the_caller_gets(daemon):
    daemon.node.cloud.tokens = {"tok-ada"}
    with Raw(daemon) as raw:
        assert raw.code(op="object", address="gs://genomes/chr/1.fa") == "forbidden"
        assert raw.code(op="object", address="gs://genomes/none", token="tok-ada") == "not_found"
        assert raw.code(op="object", address="gs://genomes/chr/1.fa#7", token="tok-ada") == "origin_changed"
        assert raw.code(op="object", address="gs://genomes/chr/1.fa", token="tok-ada") == "ok"


def test_descriptors_that_nobody_asked_for_are_closed(daemon):
    here, there = os.pipe()
    with Raw(daemon) as raw:
        assert raw.code(op="object", address="gs://genomes/chr/1.fa", descriptors=[there]) == "ok"
        os.close(there)
        assert os.read(here, 1) == b""
    os.close(here)


def test_a_client_that_leaves_while_it_waits_leaves_no_pin(daemon):
    daemon.hold()
    with Raw(daemon) as raw:
        raw.send(op="object", address="gs://genomes/chr/1.fa")
        daemon.until(lambda: daemon.node.cloud.calls)
    daemon.go_on()
    daemon.until(lambda: not daemon.handles._connections and not daemon.handles._settling)
    assert not +daemon.node.cloud.pins


def test_put_stores_the_file_behind_the_descriptor(daemon):
    with Raw(daemon) as raw:
        fd = memory(DATA)
        os.lseek(fd, 5, os.SEEK_SET)  # where the caller stands in it does not matter
        value, _ = raw.ask(
            op="put", address="gs://results/x", token="tok-ada", content_type="text/csv", metadata={"run": "7"},
            scope="b7", if_generation=0, descriptors=[fd],
        )  # fmt: skip
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        os.close(fd)
    assert value["object"]["size"] == len(DATA)
    stored = daemon.node.cloud.objects["results", "x"]
    assert (stored.data, stored.content_type, stored.metadata) == (DATA, "text/csv", {"run": "7"})
    assert value["object"]["generation"] == stored.generation
    assert daemon.node.cloud.seen == ["tok-ada"]


def test_put_wants_exactly_one_regular_readable_file(daemon, tmp_path):
    here, there = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    writer = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    path = os.open(tmp_path / "w", os.O_PATH)
    fine = memory(b"x")
    with Raw(daemon) as raw:
        for descriptors, code in (
            ([], "usage"), ([fine, fine], "usage"), ([here], "unsupported_file"), ([folder], "unsupported_file"),
            ([writer], "unsupported_file"), ([path], "unsupported_file"), ([fine], "ok"),
        ):  # fmt: skip
            assert raw.code(op="put", address="gs://results/x", descriptors=descriptors) == code
    packets.close_all([here, there, folder, writer, path, fine])
    assert [call[0] for call in daemon.node.cloud.calls] == ["put"]


def test_put_to_a_generation_is_a_usage_error_and_a_precondition_that_fails_is_told(daemon):
    with Raw(daemon) as raw:
        fd = memory(b"x")
        assert raw.code(op="put", address="gs://results/x#7", descriptors=[fd]) == "usage"
        assert (
            raw.code(op="put", address="gs://genomes/chr/1.fa", if_generation=0, descriptors=[fd])
            == "origin_changed"
        )
        os.close(fd)


def test_a_file_that_changes_while_it_is_put_is_an_error_and_nothing_is_stored(daemon, tmp_path):
    with (tmp_path / "f").open("w+b") as file, Raw(daemon) as raw:
        file.write(b"before")
        file.flush()
        daemon.hold()
        raw.send(op="put", address="gs://results/x", descriptors=[file.fileno()])
        daemon.until(lambda: daemon.node.cloud.calls)
        file.write(b" and after")
        file.flush()
        daemon.go_on()
        value, _ = raw.receive()
    assert value["error"]["code"] == "source_changed"
    assert ("results", "x") not in daemon.node.cloud.objects


def test_a_client_that_leaves_gives_its_put_up(daemon):
    daemon.hold()
    fd = memory(b"x")
    with Raw(daemon) as raw:
        raw.send(op="put", address="gs://results/x", descriptors=[fd])
        daemon.until(lambda: daemon.node.cloud.calls)
    os.close(fd)
    daemon.until(lambda: daemon.node.cloud.cancelled == 1)
    daemon.go_on()
    daemon.until(lambda: not daemon.handles._settling)
    assert ("results", "x") not in daemon.node.cloud.objects


def test_objects_and_sets_share_a_connection_in_order(daemon, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "f").write_bytes(b"of a set")
    daemon.node.put("nr", tmp_path / "s")
    with Raw(daemon) as raw:
        raw.send(op="object", address="gs://genomes/chr/1.fa")
        raw.send(op="open", name="nr/f")
        first, one = raw.receive()
        second, two = raw.receive()
        assert "object" in first
        assert "set" in second
        packets.close_all([*one, *two])

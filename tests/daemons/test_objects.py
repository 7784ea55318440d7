"""Objects at the doors of a real daemon, before a fake Cloud Storage in a process of its own."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator

import fsspec
import pytest
from cached.client import Client
from cached.errors import Forbidden, NotFound, OriginChanged
from cached.fs import ObjectFileSystem
from tests.daemons.node import Node
from tests.gcs.raw import same
from tests.gcs.remote import RemoteFake, fake_process

pytestmark = pytest.mark.daemon

MIB = 1 << 20


@pytest.fixture
def fake() -> Iterator[RemoteFake]:
    with fake_process() as remote:
        remote.bucket("data")
        yield remote
        assert not remote.errors
    ObjectFileSystem.clear_instance_cache()


@pytest.fixture
def node(cluster, fake) -> Node:
    return cluster.start(
        "a", origin_endpoint=fake.url, store_capacity="2GB", objects_memory="60MB", objects_disk="300MB"
    )


@pytest.fixture
def small(cluster, fake) -> Node:
    """A node that can keep nothing larger than a few bytes."""
    return cluster.start(
        "a", origin_endpoint=fake.url, store_capacity="2GB", objects_memory="1MB", objects_disk="1MB"
    )


def client_of(node: Node, token: str = "") -> Client:
    return Client(node.runtime, timeout=120, token=token)


class Http(http.client.HTTPConnection):
    def __init__(self, node: Node) -> None:
        super().__init__("localhost", timeout=120)
        self.path = str(node.runtime / "api.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)


def test_what_is_written_is_read_and_the_next_reader_moves_nothing(node, fake):
    data = os.urandom(3 * MIB)
    with client_of(node) as client:
        with client.open("gs://data/x", "wb", content_type="text/plain", if_generation=0) as file:
            file.write(data)
        assert file.generation == fake.generation("data", "x")
        assert same(fake.get("data", "x"), data)
        with client.open("gs://data/x") as file:
            assert file.object.generation == fake.generation("data", "x")
            assert same(file.read(), data)
        with pytest.raises(OriginChanged), client.open("gs://data/x", "wb", if_generation=0) as file:
            file.write(b"late")
        assert fake.bytes_out == 0
        fake.put("data", "x", b"newer")
        assert client.read_object("gs://data/x") == b"newer"


def test_an_object_that_does_not_fit_is_read_through_at_any_place(small, fake):
    data = os.urandom(9 * MIB)
    fake.put("data", "large", data)
    with client_of(small) as client, client.open("gs://data/large") as file:
        assert file.through
        assert same(file.read(5 * MIB), data[: 5 * MIB])
        file.seek(-1000, os.SEEK_END)
        assert file.read() == data[-1000:]
        file.seek(123)
        fake.put("data", "large", os.urandom(9 * MIB))
        with pytest.raises(OriginChanged):
            file.read()
    counters = small.status()["counters"]
    assert counters["objects.read_through"] >= 1


def test_the_command_line_reads_through_too(small, fake, tmp_path):
    data = os.urandom(5 * MIB)
    fake.put("data", "large", data)
    assert same(small.cli("cat", "gs://data/large", text=False).stdout, data)
    small.cli("get", "gs://data/large", tmp_path / "copy")
    assert same((tmp_path / "copy").read_bytes(), data)


def test_http_reads_ranges_writes_lists_and_clears(node, fake):
    data = os.urandom(2 * MIB)
    web = Http(node)

    def ask(
        method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        web.request(method, path, body, headers)
        response = web.getresponse()
        return response.status, response.read(), response.headers

    assert (
        ask("PUT", "/v1/objects/data/a%2Fb?if_generation=0", data, **{"Content-Type": "text/csv"})[0] == 200
    )
    assert same(fake.get("data", "a/b"), data)
    status, got, headers = ask("GET", "/v1/objects/data/a/b")
    assert (status, headers["Content-Type"]) == (200, "text/csv")
    assert same(got, data)
    assert headers["ETag"] == f'"{fake.generation("data", "a/b")}"'
    assert ask("GET", "/v1/objects/data/a/b", Range="bytes=10-19")[:2] == (206, data[10:20])
    assert ask("GET", "/v1/objects/data/a/b", Range=f"bytes={len(data)}-")[0] == 416
    assert ask("HEAD", "/v1/objects/data/a/b")[2]["Content-Length"] == str(len(data))
    assert b'"a/"' in ask("GET", "/v1/objects?prefix=gs://data&delimiter=/")[1]
    assert ask("GET", "/v1/objects/data/none")[0] == 404
    assert ask("POST", "/v1/clear", b"{}")[0] == 200
    assert fake.bytes_out == 0
    assert same(ask("GET", "/v1/objects/data/a/b")[1], data)
    assert fake.bytes_out == len(data)
    web.close()


def test_a_client_that_leaves_in_mid_stream_harms_nobody(small, fake):
    data = os.urandom(30 * MIB)
    fake.put("data", "large", data)
    fake.rate = 20e6
    for _ in range(3):
        web = Http(small)
        web.request("GET", "/v1/objects/data/large?keep=none")
        assert web.getresponse().read(1000) == data[:1000]
        web.close()
    fake.rate = None
    fake.put("data", "small", b"still served")
    assert small.cli("cat", "gs://data/small").stdout == "still served"
    assert small.status()["open"] == 0


def test_each_token_opens_what_cloud_storage_lets_it(node, fake):
    fake.put("data", "secret", b"for ada")
    fake.tokens["tok-ada"], fake.tokens["tok-eve"] = "ada", "eve"
    fake.allow("data", "ada", read=True, write=True)
    with client_of(node, "tok-ada") as ada, client_of(node, "tok-eve") as eve, client_of(node) as nobody:
        assert ada.read_object("gs://data/secret") == b"for ada"
        for other in (eve, nobody):
            for ask in (other.read_object, other.stat_object):
                with pytest.raises(Forbidden):
                    ask("gs://data/secret")
            with pytest.raises(Forbidden):
                other.put(b"x", "gs://data/secret")
        with pytest.raises(NotFound):
            ada.read_object("gs://data/none")
    assert "tok-ada" not in node.log
    assert "tok-eve" not in node.log


def test_cachegs_works_against_a_node(node, fake, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake.url)
    for name in ("CACHED_GCS_TOKEN", "CACHED_GCS_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    fs = fsspec.filesystem("cachegs", runtime_dir=str(node.runtime))
    fs.pipe_file("data/t/x.csv", b"a,b\n1,2\n")
    assert fs.find("data/t") == ["data/t/x.csv"]
    assert fs.cat_file("gs://data/t/x.csv", 4, 7) == b"1,2"
    with fs.open("data/t/x.csv", "rt") as file:
        assert file.readline() == "a,b\n"

"""Writing objects through the client: stored when the file is closed, whole, or not at all."""

from __future__ import annotations

import gc
import gzip
import io
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.client import Client, ObjectWriter
from cached.errors import (
    CachedError,
    DaemonUnreachable,
    OriginChanged,
    SourceChanged,
    UsageError,
)
from tests.api.fake_daemon import Daemon, running

DATA = random.Random(7).randbytes(3_000_000)


CHR = "gs://genomes/chr/1.fa"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")  # no look for tokens outside
    for name in ("CACHED_GCS_TOKEN", "CACHED_GCS_TOKEN_FILE", "CACHED_SCOPE"):
        monkeypatch.delenv(name, raising=False)
    with running(tmp_path) as daemon:
        daemon.node.cloud.plant(CHR, DATA)
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.runtime, timeout=60, token="tok-ada") as client:
        yield client


def test_what_is_written_is_stored_when_the_file_is_closed(client, daemon):
    with client.open("gs://results/x", "wb", content_type="text/csv", if_generation=0) as file:
        assert isinstance(file, ObjectWriter)
        file.write(b"one,")
        file.write(DATA)
        assert file.seek(0) == 0
        file.write(b"ONE,")
        assert ("results", "x") not in daemon.node.cloud.objects
        assert file.generation is None
    stored = daemon.node.cloud.objects["results", "x"]
    assert stored.data == b"ONE," + DATA
    assert stored.content_type == "text/csv"
    assert file.generation == stored.generation
    assert file.object.size == len(DATA) + 4
    file.close()
    assert file.closed


def test_an_exception_stores_nothing(client, daemon):
    file = client.open("gs://results/x", "wb")

    def write() -> None:
        with file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert file.closed
    assert file.generation is None
    file.close()
    assert not daemon.node.cloud.calls


def test_a_writer_that_is_forgotten_stores_nothing(client, daemon):
    client.open("gs://results/x", "wb").write(b"half")
    gc.collect()
    writer = client.open("gs://results/y", "wb")
    writer.write(b"half")
    writer.discard()
    assert not daemon.node.cloud.calls


def test_a_store_that_fails_is_told_by_close_and_the_file_is_closed(client, daemon):
    file = client.open(CHR, "wb", if_generation=0)
    file.write(b"x")
    with pytest.raises(OriginChanged):
        file.close()
    assert file.closed
    file.close()
    assert daemon.node.cloud.objects["genomes", "chr/1.fa"].data == DATA


def test_put_takes_paths_bytes_and_files(client, daemon, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    objects = daemon.node.cloud.objects

    def stored(source) -> bytes:
        made = client.put(source, "gs://results/x", metadata={"a": "b"})
        assert made.generation == objects["results", "x"].generation
        assert objects["results", "x"].metadata == {"a": "b"}
        return objects["results", "x"].data

    assert stored(path) == DATA
    assert stored(str(path)) == DATA
    for data in (DATA, b"", bytearray(b"abc"), memoryview(b"abcdef")[::2], memoryview(DATA)):
        assert stored(data) == bytes(data)
    assert stored(io.BytesIO(DATA)) == DATA
    with path.open("rb") as file:
        assert stored(file) == DATA
        assert file.read() == b""
        file.seek(100)
        assert stored(file) == DATA[100:]
    with path.open("r+b") as file:
        file.write(b"NEW")
        file.seek(0)
        assert stored(file) == b"NEW" + DATA[3:]
    with gzip.open(tmp_path / "z", "wb") as file:
        file.write(DATA)
    with gzip.open(tmp_path / "z", "rb") as file:
        assert stored(file) == DATA  # what the file gives, not what its descriptor has
    assert stored(Path("/proc/self/stat"))
    with client.open(CHR) as file:
        assert stored(file) == DATA


def test_put_reads_a_pipe_to_its_end(client, daemon):
    here, there = os.pipe()

    def feed() -> None:
        with os.fdopen(there, "wb") as file:
            file.write(DATA)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with os.fdopen(here, "rb") as file:
        client.put(file, "gs://results/x")
    feeder.join(60)
    assert daemon.node.cloud.objects["results", "x"].data == DATA


def test_put_refuses_what_is_no_bytes(client, tmp_path):
    with pytest.raises(UsageError, match="text"):
        client.put(io.StringIO("text"), "gs://results/x")
    with pytest.raises(UsageError, match="neither"):
        client.put(7, "gs://results/x")
    with pytest.raises(IsADirectoryError):
        client.put(tmp_path, "gs://results/x")
    with pytest.raises(FileNotFoundError):
        client.put(tmp_path / "none", "gs://results/x")
    with pytest.raises(UsageError):
        client.put(b"x", "gs://results")


def test_a_file_that_is_being_changed_is_not_stored(client, daemon, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"before")
    daemon.hold()
    failed: list[CachedError] = []

    def put() -> None:
        try:
            client.put(path, "gs://results/x")
        except CachedError as error:
            failed.append(error)

    putting = threading.Thread(target=put)
    putting.start()
    daemon.until(lambda: daemon.node.cloud.calls)
    path.write_bytes(b"before and after")
    daemon.go_on()
    putting.join(60)
    assert isinstance(failed[0], SourceChanged)


def test_a_daemon_that_goes_away_in_mid_put_leaves_a_clear_answer(client, daemon):
    daemon.hold()
    failed: list[CachedError] = []

    def put() -> None:
        try:
            client.put(b"x", "gs://results/x")
        except CachedError as error:
            failed.append(error)

    putting = threading.Thread(target=put)
    putting.start()
    daemon.until(lambda: daemon.node.cloud.calls)
    daemon.stop()
    putting.join(60)
    assert isinstance(failed[0], DaemonUnreachable)
    assert "not known" in failed[0].hint
    daemon.start()


# Asking, tokens, copies

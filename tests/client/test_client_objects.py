"""The client and objects: real files, reading through, writers, tokens on their way, threads, forks, restarts."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import io
import os
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cached
import pytest
from cached import wire
from cached.client import AsyncClient, Client, ObjectFile
from cached.client import through as through_module
from cached.errors import (
    Forbidden,
    NotFound,
    OriginChanged,
    OriginUnavailable,
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


def test_an_object_is_a_real_file_that_says_which_generation_it_is(client, daemon):
    with client.open(CHR) as file:
        assert isinstance(file, ObjectFile)
        assert isinstance(file, io.BufferedReader)
        assert file.read() == DATA
        assert os.pread(file.fileno(), 5, 10) == DATA[10:15]
        assert fcntl.fcntl(file.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert file.object.generation == daemon.node.cloud.objects["genomes", "chr/1.fa"].generation
        assert (file.tier, file.through) == ("disk", False)
        assert sum(daemon.node.cloud.pins.values()) == 1
    daemon.until(lambda: not +daemon.node.cloud.pins)
    assert daemon.node.cloud.seen == ["tok-ada"]


def test_a_file_that_is_forgotten_gives_its_pin_back(client, daemon):
    client.open(CHR)
    gc.collect()
    daemon.until(lambda: not +daemon.node.cloud.pins)


def test_many_opens_need_one_connection_and_threads_share_a_client(client, daemon):
    for _ in range(100):
        client.open(CHR).close()
    assert len(daemon.handles._connections) == 1
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: client.read_object(CHR), range(50))) == {DATA}
    daemon.until(lambda: not +daemon.node.cloud.pins)


def test_what_cannot_be_opened_is_told_by_kind(client, daemon):
    with pytest.raises(NotFound):
        client.open("gs://genomes/none")
    with pytest.raises(OriginChanged):
        client.open(f"{CHR}#7")
    for bad in ("gs://", "gs://genomes", "gs://genomes/a\nb"):
        with pytest.raises(UsageError):
            client.open(bad)
    daemon.node.cloud.tokens = set()
    with pytest.raises(Forbidden):
        client.open(CHR)
    with pytest.raises(UsageError, match="mode"):
        client.open(CHR, "r+b")
    with pytest.raises(UsageError, match="never change"):
        client.open("nr/a.txt", "wb")


def test_keep_and_scope_reach_the_daemon_and_the_environment_names_a_scope(client, daemon, monkeypatch):
    client.open(CHR, keep="memory", scope="b1").close()
    monkeypatch.setenv("CACHED_SCOPE", "b2")
    client.open(CHR).close()
    client.open(CHR, scope="").close()
    client.put(b"x", "gs://results/x")
    assert [call[2] for call in daemon.node.cloud.calls] == ["b1", "b2", "", "b2"]
    assert daemon.node.cloud.calls[0][3] == "memory"


def test_progress_is_told_while_an_object_comes(client, daemon):
    seen: list[wire.Progress] = []
    client.open(CHR, progress=seen.append).close()
    assert seen


# Reading through


@pytest.fixture
def far(daemon: Daemon) -> Daemon:
    daemon.node.cloud.through.add("chr/1.fa")
    return daemon


def test_what_nothing_keeps_is_read_through(client, far):
    with client.open(CHR) as file:
        assert file.through
        assert file.read() == DATA
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
    with client.open(CHR) as file:
        assert b"".join(iter(lambda: file.read(77_777), b"")) == DATA
    assert client.read_object(CHR) == DATA
    far.until(lambda: far.node.cloud.streams == 0)


def test_parts_that_are_read_through_say_that_the_object_was_opened_before(client, far):
    with client.open(CHR) as file:
        assert file.read() == DATA
    keeps = [call[3] for call in far.node.cloud.calls if call[0] == "open"]
    assert keeps[0] == "auto"
    assert set(keeps[1:]) == {"again"}


def test_reading_through_is_seekable_like_any_file(client, far):
    rng, plain = random.Random(1), io.BytesIO(DATA)
    with client.open(CHR) as file:
        for _ in range(60):
            whence = rng.choice([os.SEEK_SET, os.SEEK_SET, os.SEEK_END])
            offset = rng.randrange(len(DATA) + 1000) if whence == os.SEEK_SET else -rng.randrange(len(DATA))
            if rng.random() < 0.5:
                assert file.seek(offset, whence) == plain.seek(offset, whence)
            size = rng.choice([0, 1, 100, 10_000, 500_000])
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()
        with pytest.raises(ValueError, match="seek"):
            file.raw.seek(-1)


def test_a_reader_who_goes_on_is_given_ever_larger_parts_and_a_jumping_one_small_ones(
    client, far, monkeypatch
):
    monkeypatch.setattr(through_module, "FIRST", 100_000)
    with client.open(CHR) as file:
        raw = file.raw
        raw._window = 100_000
        buffer = bytearray(50_000)
        while raw.readinto(buffer):
            pass
        asked = [call[1:] for call in far.node.cloud.calls if call[0] == "stream"]
        parts = [stop - start for start, stop in asked]
        assert parts[:3] == [100_000, 200_000, 400_000]
        assert sum(parts) == len(DATA)
        raw.seek(1_000_000)
        raw.readinto(buffer)
        assert far.node.cloud.calls[-1] == ("stream", 1_000_000, 1_100_000)


def test_a_generation_that_goes_while_it_is_read_is_an_error_and_never_a_mixture(client, far, monkeypatch):
    monkeypatch.setattr(through_module, "FIRST", 100_000)
    with client.open(CHR) as file:
        file.raw._window = 50_000
        assert file.raw.read(100_000) == DATA[:100_000]
        far.node.cloud.plant(CHR, bytes(len(DATA)))
        with pytest.raises(OriginChanged):
            file.read()


def test_a_stream_that_breaks_is_taken_up_where_it_broke(client, far):
    far.node.cloud.breaks_after = 300_000
    with client.open(CHR) as file:
        assert file.read() == DATA


def test_an_empty_object_is_read_through_without_a_question(client, far):
    far.node.cloud.plant(CHR, b"")
    with client.open(CHR) as file:
        assert file.read() == b""


def test_a_fork_reads_on_by_itself(client, far):
    with client.open(CHR) as file:
        assert file.read(1000) == DATA[:1000]
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = int(file.read() != DATA[1000:])
            finally:
                os._exit(code)
        os.close(there)
        assert file.read() == DATA[1000:]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(here)


def test_a_daemon_that_restarts_is_asked_again(client, far):
    with client.open(CHR) as file:
        assert file.read(1000) == DATA[:1000]
        far.stop()
        far.start()
        far.node.cloud.through.add("chr/1.fa")
        assert file.read() == DATA[1000:]
    with client.open(CHR) as file:
        assert file.read(10) == DATA[:10]


# Writing


def test_stat_list_clear_and_the_end_of_a_scope(client, daemon):
    assert client.stat_object(CHR).size == len(DATA)
    assert client.stat_object(f"{CHR}#{client.stat_object(CHR).generation}").name == "chr/1.fa"
    with pytest.raises(NotFound, match="gs://genomes/none"):
        client.stat_object("gs://genomes/none")
    assert client.list_objects("gs://genomes", "/").prefixes == ["chr/"]
    assert [each.name for each in client.list_objects("gs://genomes/chr/").items] == ["chr/1.fa"]
    assert client.clear("gs://genomes/chr/", user="eve").entries == 2
    assert client.clear().bytes == 20
    with pytest.raises(UsageError, match="has a name"):
        client.end_scope("")
    reply = client.end_scope("b7", delete_origin=True, dry_run=True)
    assert (reply.scope, reply.dry_run) == ("b7", True)
    assert set(daemon.node.cloud.seen) == {"tok-ada"}


def test_a_list_that_breaks_off_is_an_error_and_no_shorter_list(client, daemon):
    daemon.node.cloud.lists_break = True
    with pytest.raises(OriginUnavailable, match="gs://genomes/: Cloud Storage does not answer"):
        client.list_objects("gs://genomes")


def test_a_token_may_be_asked_for_at_each_request(daemon):
    numbers = iter(range(100))
    with Client(daemon.runtime, token=lambda: f"tok-{next(numbers)}") as client:
        client.open(CHR).close()
        client.put(b"x", "gs://results/x")
        client.stat_object(CHR)
        assert daemon.node.cloud.seen == ["tok-0", "tok-1", "tok-2"]
    with Client(daemon.runtime, token=lambda: None) as client, pytest.raises(UsageError):
        client.open(CHR)
    with Client(daemon.runtime, token="tok-secret\r\nX: y") as client:
        with pytest.raises(UsageError) as told:
            client.stat_object(CHR)
        assert "secret" not in str(told.value)


def test_a_pickled_client_is_the_same_client(client, daemon):
    copy = pickle.loads(pickle.dumps(client))
    assert copy.read_object(CHR) == DATA
    assert copy._timeout == 60
    assert set(daemon.node.cloud.seen) == {"tok-ada"}
    copy.close()


def test_a_forked_client_works_in_both_processes(client, daemon):
    with client.open(CHR) as file:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                client.put(client.read_object(CHR)[:10], "gs://results/child")
                code = int(os.pread(file.fileno(), 10, 0) != DATA[:10])
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.read() == DATA
    assert daemon.node.cloud.objects["results", "child"].data == DATA[:10]
    assert client.read_object("gs://results/child") == DATA[:10]


@pytest.mark.parametrize("through", [False, True])
def test_export_writes_a_new_file_whole_or_not_at_all(client, daemon, tmp_path, through):
    if through:
        daemon.node.cloud.through.add("chr/1.fa")
    seen: list[wire.Progress] = []
    client.export(CHR, tmp_path / "deep" / "copy", progress=seen.append)
    assert (tmp_path / "deep" / "copy").read_bytes() == DATA
    assert seen[-1].bytes_present == len(DATA)
    with pytest.raises(UsageError, match="exists"):
        client.export(CHR, tmp_path / "deep" / "copy")
    with pytest.raises(NotFound):
        client.export("gs://genomes/none", tmp_path / "new" / "copy")
    assert not (tmp_path / "new").exists()


def test_the_package_opens_objects_for_reading_and_writing(daemon, monkeypatch):
    monkeypatch.setenv("CACHED_RUNTIME_DIR", str(daemon.runtime))
    monkeypatch.setenv("CACHED_GCS_TOKEN", "tok-env")
    monkeypatch.setattr(cached, "_client", None)
    with cached.open(CHR) as file:
        assert file.read() == DATA
    with cached.open("gs://results/x", "wb", if_generation=0) as file:
        file.write(b"x")
    assert daemon.node.cloud.objects["results", "x"].data == b"x"
    assert set(daemon.node.cloud.seen) == {"tok-env"}


def test_the_asynchronous_client_does_the_same(daemon, tmp_path):
    async def main() -> None:
        seen: list[wire.Progress] = []
        async with AsyncClient(daemon.runtime, token="tok-ada") as client:
            with await client.open(CHR, progress=seen.append) as file:
                assert file.read() == DATA
            with await client.open_object(CHR, keep="none") as file:
                assert file.object.size == len(DATA)
            assert await client.read_object(CHR) == DATA
            made = await client.put(b"new", "gs://results/x", if_generation=0, progress=seen.append)
            assert (await client.stat_object("gs://results/x")) == made
            writer = await client.write_object("gs://results/y")
            writer.write(b"more")
            await asyncio.to_thread(writer.close)
            assert len((await client.list_objects("gs://results")).items) == 2
            assert (await client.clear()).entries == 2
            assert (await client.end_scope("b7", dry_run=True)).dry_run
            await client.export(CHR, tmp_path / "copy")
        assert seen

    asyncio.run(main())
    assert (tmp_path / "copy").read_bytes() == DATA

"""`dump` and `load` over the real sockets: views without a copy, and whose pickle is unpickled."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cached
import msgspec
import numpy as np
import pytest
from cached.api import attest
from cached.client import AsyncClient, Client, dumps
from cached.client.pickled import pickled, write
from cached.errors import Forbidden, IntegrityFailed, NotFound, UsageError
from tests.api.fake_daemon import Daemon, running

ME = getpass.getuser()
WHERE = "gs://bkt/dir/model"
ran: list[str] = []


def explode(word: str) -> None:
    ran.append(word)


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return explode, ("ran",)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    ran.clear()
    with Client(daemon.runtime, token="ada") as opened:
        yield opened


def dumped_by(daemon: Daemon, user: str, obj: Any, address: str = WHERE) -> None:
    """What another user's process and node would have stored."""
    parts, _ = pickled(obj)
    data = b"".join(bytes(part) for part in parts)
    bucket, _, name = address.removeprefix("gs://").partition("/")
    statement = json.dumps([user, hashlib.sha256(data).hexdigest(), bucket, name])
    daemon.node.cloud.plant(address, data, metadata={"cached-dump": statement})


def test_an_array_is_loaded_as_a_view_of_the_file_that_the_node_hands_out(client, daemon):
    array = np.arange(300_000.0).reshape(3, -1)
    view = client.dump({"a": array, "b": "text"}, WHERE, scope="run7")
    assert view.address == f"{WHERE}#{view.generation}"
    assert daemon.node.cloud.objects["bkt", "dir/model"].scope == "run7"
    loaded = client.load(WHERE)
    assert loaded["b"] == "text"
    assert (loaded["a"] == array).all()
    assert not loaded["a"].flags.writeable
    with open("/proc/self/maps") as maps:
        assert any(f"object-{view.generation}" in line and " r--s " in line for line in maps)
    daemon.until(lambda: not +daemon.node.cloud.pins)
    assert (loaded["a"] == array).all()


def test_the_hash_is_that_of_the_bytes_which_the_daemon_got_and_taken_once_a_file(
    client, daemon, monkeypatch
):
    client.dump([1, 2, 3], WHERE)
    stored = daemon.node.cloud.objects["bkt", "dir/model"]
    assert json.loads(stored.metadata["cached-dump"]) == [
        ME,
        hashlib.sha256(stored.data).hexdigest(),
        "bkt",
        "dir/model",
    ]
    hashed = []
    real = attest.hash_of_file

    async def counted(descriptor, size, report):
        hashed.append(os.fstat(descriptor).st_ino)
        return await real(descriptor, size, report)

    monkeypatch.setattr(attest, "hash_of_file", counted)
    assert client.load(WHERE) == [1, 2, 3]
    assert client.load(WHERE) == [1, 2, 3]
    assert len(hashed) == 1


def test_another_copy_than_the_one_attested_is_not_unpickled(client, daemon, monkeypatch):
    client.dump([1, 2, 3], WHERE)
    found = client.attested(WHERE)
    assert found.file
    monkeypatch.setattr(type(client), "attested", lambda *_, **__: msgspec.structs.replace(found, file="1:1"))
    with pytest.raises(IntegrityFailed, match="another copy"):
        client.load(WHERE)


def test_an_object_that_the_node_moves_in_that_moment_is_opened_again(client, daemon, monkeypatch):
    client.dump([1, 2], WHERE)
    right, asked = dumps._file, []

    def moved_twice(file) -> str:
        asked.append(file)
        return "0:0" if len(asked) <= dumps.TRIES - 1 else right(file)

    monkeypatch.setattr(dumps, "_file", moved_twice)
    assert client.load(WHERE) == [1, 2]
    assert len(asked) == dumps.TRIES


def test_what_another_user_dumped_is_not_unpickled_unless_that_user_is_trusted(client, daemon):
    dumped_by(daemon, "mallory", Bomb())
    for trust in (None, {"ada"}, (), {ME}):
        with pytest.raises(Forbidden, match="dumped by mallory") as refused:
            client.load(WHERE, trust=trust)
        assert 'trust={"mallory"}' in refused.value.hint
        assert refused.value.details == {"user": "mallory"}
    assert not ran
    client.load(WHERE, trust={"ada", "mallory"})
    assert ran == ["ran"]


def test_a_plain_pickle_of_anybody_is_loaded_when_anyone_is_trusted_and_nobody_is_asked_who_it_was(
    client, daemon
):
    parts, _ = pickled(Bomb())
    daemon.node.cloud.plant(WHERE, b"".join(bytes(part) for part in parts))
    with pytest.raises(Forbidden) as refused:
        client.load(WHERE)
    assert "trust=" in refused.value.hint
    assert not ran
    client.load(WHERE, trust="anyone")
    assert ran == ["ran"]


def test_altered_and_moved_dumps_are_refused(client, daemon):
    client.dump(Bomb(), WHERE)
    stored = daemon.node.cloud.objects["bkt", "dir/model"]
    daemon.node.cloud.plant("gs://bkt/elsewhere", stored.data, metadata=stored.metadata)
    daemon.node.cloud.plant(WHERE, stored.data[:-1] + b"!", metadata=stored.metadata)
    for address in (WHERE, "gs://bkt/elsewhere"):
        with pytest.raises(Forbidden):
            client.load(address)
    assert not ran


def test_the_very_generation_that_was_attested_is_unpickled(client, daemon, monkeypatch):
    client.dump("mine", WHERE)
    plain = Client.attested

    def overtaken(self: Client, address: str, **settings: Any) -> Any:
        dumped_by(daemon, ME, "later")
        return plain(self, address, **settings)

    monkeypatch.setattr(Client, "attested", overtaken)
    with pytest.raises(Exception, match="gone"):
        client.load(WHERE)


def test_trust_that_names_nobody_is_a_mistake(client):
    for trust in ("ada", [1]):
        with pytest.raises(UsageError, match="names no users"):
            client.load(WHERE, trust=trust)


def test_what_no_node_could_keep_is_loaded_too(client, daemon):
    array = np.arange(200_000)
    client.dump(array, WHERE)
    daemon.node.cloud.through.add("dir/model")
    loaded = client.load(WHERE)
    assert (loaded == array).all()
    assert not loaded.flags.writeable


def test_no_object_and_no_dump_say_what_they_are(client, daemon):
    client.dump(1, WHERE)
    with pytest.raises(NotFound):
        client.load("gs://bkt/nothing")
    daemon.node.cloud.plant("gs://bkt/text", b"hello")
    with pytest.raises(IntegrityFailed, match="no dump"):
        client.load("gs://bkt/text", trust="anyone")


def test_the_node_attests_nothing_without_the_file(client, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(Exception, match="regular file"):
            client.attest(folder, WHERE)
    finally:
        os.close(folder)


def test_the_token_is_asked_of_cloud_storage_when_somebody_wants_to_know_who_dumped(client, daemon):
    client.dump(1, WHERE)
    daemon.node.cloud.tokens = {"ada"}
    assert client.attested(WHERE).user == ME
    with Client(daemon.runtime, token="mallory") as other, pytest.raises(Forbidden, match="does not let you"):
        other.attested(WHERE)


def test_a_dump_is_written_from_where_its_buffers_are(tmp_path):
    array = np.ones(100_000)
    parts, size = pickled(array)
    assert any(isinstance(part, memoryview) and part.nbytes == array.nbytes for part in parts)
    with (tmp_path / "x").open("wb") as file:
        assert write(file.fileno(), parts) == size


def test_a_job_dumps_and_loads_with_two_words(daemon, monkeypatch):
    monkeypatch.setenv("CACHED_RUNTIME_DIR", str(daemon.runtime))
    monkeypatch.setenv("CACHED_GCS_TOKEN", "ada")
    monkeypatch.setattr(cached, "_client", None)
    cached.dump(np.arange(7), WHERE)
    assert cached.load(WHERE).sum() == 21
    assert set(daemon.node.cloud.seen) == {"ada"}
    cached.Client().close()


def test_programs_with_an_event_loop_dump_and_load_too(daemon):
    async def both() -> Any:
        async with AsyncClient(daemon.runtime, token="ada") as client:
            reports: list[Any] = []
            await client.dump(np.arange(5), WHERE, progress=reports.append)
            return await client.load(WHERE), reports

    loaded, reports = asyncio.run(both())
    assert loaded.sum() == 10
    assert reports

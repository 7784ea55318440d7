"""The verbs of the client over HTTP, sync and async."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cached
import pytest
from cached.client import AsyncClient, Client
from cached.errors import NotFound
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon


def test_every_verb_returns_its_value(daemon):
    with Client(daemon.runtime) as client:
        (listed,) = client.list()
        assert client.list(local=True) == [listed]
        assert client.show("nr") == client.show(f"id:{listed.id}") == client.show("root:nr") == listed
        assert [each.path for each in client.files("nr") if each.kind == "link"] == ["sub/link"]
        assert client.nodes() == []
        assert client.status() == {"user": "root", "admin": True}
        assert client.usage() == {"items": []}
        assert client.match("nr")[0].matches
        assert client.update("nr", share="public") == listed
        assert daemon.node.calls[-1][2] == {"share": "public"}
        assert client.extend("nr", 60).grants[0].seconds == 60
        assert client.locate(["nr", "b"], "[]").directory_age_seconds == 0.5
        assert client.delete("nr", dry_run=True).dry_run
        assert client.delete("nr", everywhere=True).name == "nr"
        with pytest.raises(NotFound, match="there is no set nr"):
            client.show("nr")


def test_long_work_reports_and_returns(daemon):
    seen = []
    with Client(daemon.runtime) as client:
        assert client.replicate("nr", -1, ["b"], True, 9, progress=seen.append).complete
        assert ("replicate", -1, ("b",), True, 9.0) in daemon.node.calls
        assert client.fetch("nr", progress=seen.append).have == 1
        assert client.verify("nr").ok
        assert {report.bytes_wanted for report in seen} == {2}
        with pytest.raises(NotFound, match="no other holder"):
            client.verify("nr", repair=True)
        with pytest.raises(NotFound):
            client.fetch("none")


def test_the_asynchronous_client_has_the_same_verbs(daemon, tmp_path):
    seen = []

    async def main() -> None:
        async with AsyncClient(daemon.runtime) as client:
            shown, listed = await asyncio.gather(client.show("nr"), client.list())
            assert listed == [shown]
            with await client.open("nr/a.txt") as file:
                assert file.read() == b"hello, world\n"
            with await client.open_dir("nr") as opened:
                assert opened.set_id == shown.id
            assert (await client.create("two", [tmp_path / "source"], progress=seen.append)).files == 4
            assert (await client.fetch("nr", progress=seen.append)).complete
            assert (await client.delete("two")).name == "two"
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen


def test_both_clients_have_the_same_public_verbs():
    def verbs(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert verbs(Client) == verbs(AsyncClient)


def test_the_package_opens_files_and_names_its_errors(daemon, monkeypatch):
    monkeypatch.setenv("CACHED_RUNTIME_DIR", str(daemon.runtime))
    monkeypatch.setattr(cached, "_client", None)
    with cached.open("nr/a.txt") as file:
        assert file.read() == b"hello, world\n"
    with pytest.raises(cached.NotFound):
        cached.open("nr/none")
    with cached.open("nr/a.txt", "rb") as file:
        assert file.read(1)
    with pytest.raises(cached.UsageError, match="bytes"):
        cached.open("nr/a.txt", "w")
    assert cached.Client is Client
    with pytest.raises(AttributeError):
        _ = cached.nonsense


def test_importing_the_job_side_loads_nothing_heavy():
    code = (
        "import sys, cached, cached.client, cached.fs\n"
        "heavy = {'aiohttp', 'sqlalchemy', 'libtorrent', 'cryptography', 'google', 'zeroconf',"
        " 'prometheus_client', 'htcondor2', 'classad2'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_importing_the_package_alone_does_not_load_the_client():
    code = "import sys, cached; print('msgspec' in sys.modules, 'cached.client' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["False", "False"]

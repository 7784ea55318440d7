"""`cached put`, `clear`, `scope end`, and `get` and `cat` of objects: what is asked, said and answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cached import wire
from cached.errors import (
    CachedError,
    DaemonUnreachable,
    Forbidden,
    IntegrityFailed,
    NotFound,
    OriginChanged,
    Refused,
)
from tests.api.fake_daemon import running

VIEW = wire.ObjectView(bucket="b", name="o", generation=17, size=3, crc32c="00000000", address="gs://b/o#17")
CACHED = [sys.executable, "-c", "from cached_cli.main import main; main()"]


def test_copies_are_listed_with_where_they_lie_and_since_when_nobody_used_them(run, client):
    facts = {"bucket": "b", "generation": 17, "age_seconds": 90.0}
    client.answers["list_copies"] = [
        wire.CopyView(
            address="gs://b/x#17",
            name="x",
            bytes=2048,
            whole=True,
            tiers=["disk", "memory"],
            scope="b7",
            **facts,
        ),
        wire.CopyView(address="gs://b/y#17", name="y", bytes=1024, whole=False, tiers=["disk"], **facts),
    ]
    ran = run("list", "--objects", "gs://b/")
    assert client.last == ("list_copies", ("gs://b/",), {})
    rows = [line.split("  ") for line in ran.out.splitlines()]
    assert [" ".join(cell.strip() for cell in row if cell.strip()) for row in rows[1:]] == [
        "gs://b/x 17 2.0 KiB disk, memory 1m 30s b7",
        "gs://b/y (parts) 17 1.0 KiB disk 1m 30s -",
    ]
    found = run("list", "--json", "--objects").json
    assert client.last == ("list_copies", (None,), {})
    assert found["items"][0]["address"] == "gs://b/x#17"


def test_put_prints_the_address_with_its_generation(run, client, tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    client.answers["put"] = VIEW
    ran = run(
        "put",
        str(tmp_path / "f"),
        "gs://b/o",
        "--if-generation",
        "0",
        "--content-type",
        "text/csv",
        "--scope",
        "s",
    )
    assert (ran.code, ran.out) == (0, "gs://b/o#17\n")
    verb, arguments, settings = client.last
    assert (verb, arguments) == ("put", (tmp_path / "f", "gs://b/o"))
    assert settings == {"if_generation": 0, "content_type": "text/csv", "scope": "s"}
    assert run("put", str(tmp_path / "f"), "gs://b/o", "--json").json["generation"] == 17
    assert client.last[2] == {"if_generation": None, "content_type": "", "scope": None}


def test_put_refuses_a_directory_and_a_broken_generation(run, client, tmp_path):
    assert run("put", str(tmp_path), "gs://b/o").code == 2
    assert run("put", "f", "gs://b/o", "--if-generation", "-1").code == 2
    for file, named in (("d/f", "gs://b/d/f"), ("-", "gs://b/d/OBJECT")):
        ran = run("put", file, "gs://b/d/")
        assert (ran.code, named in ran.err) == (2, True)
    assert not client.calls


def test_clear_lists_what_went_from_each_node(run, client):
    items = [
        wire.ClearItem(node="n1", entries=2, bytes=2 << 20),
        wire.ClearItem(node="n2", reason="does not answer"),
    ]
    client.answers["clear"] = wire.ClearReply(entries=2, bytes=2 << 20, items=items)
    ran = run("clear", "gs://b/p", "--user", "eve")
    assert ran.code == 1
    assert "2.0 MiB" in ran.out
    assert "does not answer" in ran.out
    assert "not all is done: 1 of the lines above" in ran.err
    assert client.last[1] == ("gs://b/p", "eve")
    told = run("clear", "--json")
    assert (told.json["entries"], told.code) == (2, 1)
    assert client.last[1] == (None, None)
    client.answers["clear"] = wire.ClearReply(entries=2, bytes=2 << 20, items=items[:1])
    assert (run("clear").code, run("clear", "--json").code) == (0, 0)


@pytest.mark.parametrize(
    ("action", "dry", "code"), [("delete", (), 1), ("keep", (), 0), ("delete", ("--dry-run",), 0)]
)
def test_the_end_of_a_scope_that_leaves_something_fails(run, client, action, dry, code):
    item = wire.ScopeItem(kind="origin", name="gs://b/o", bytes=3, action=action, reason="denied")
    client.answers["end_scope"] = wire.ScopeReply(
        scope="s", dry_run=bool(dry), sets=0, objects=0, origin_objects=1, bytes=3, items=[item]
    )
    ran = run("scope", "end", "s", "--delete-origin", *dry)
    assert (ran.code, "not all is done" in ran.err) == (code, action != "keep")
    assert run("scope", "end", "s", "--delete-origin", "--json", *dry).code == code


def test_the_end_of_a_scope_says_what_goes(run, client):
    item = wire.ScopeItem(kind="origin", name="gs://b/o\x1b[2J", bytes=3, action="deleted")
    client.answers["end_scope"] = wire.ScopeReply(
        scope="s", dry_run=True, sets=0, objects=0, origin_objects=1, bytes=3, items=[item]
    )
    ran = run("scope", "end", "s", "--delete-origin", "--dry-run")
    assert ran.code == 0
    assert "dry run" in ran.err
    assert "\x1b" not in ran.out
    assert client.last == ("end_scope", ("s",), {"delete_origin": True, "dry_run": True})
    assert run("scope", "end", "s", "--json").json["origin_objects"] == 1


def test_the_end_of_a_scope_leaves_out_nodes_that_have_nothing_of_it(run, client):
    facts = {"kind": "object", "action": "clear"}
    some = [
        wire.ScopeItem(name="2", node="n1", bytes=4096, **facts),
        wire.ScopeItem(name="0", node="n2", **facts),
        wire.ScopeItem(name="0", node="n3", reason="does not answer", **facts),
    ]
    reply = {"scope": "s", "dry_run": False, "sets": 0, "objects": 2, "origin_objects": 0, "bytes": 4096}
    client.answers["end_scope"] = wire.ScopeReply(items=some, **reply)
    rows = [" ".join(line.split()) for line in run("scope", "end", "s").out.splitlines()[1:]]
    assert rows == ["copies 2 n1 4.0 KiB clear", "copies 0 n3 0 B clear does not answer"]
    client.answers["end_scope"] = wire.ScopeReply(items=some[1:2], **reply)
    ran = run("scope", "end", "s")
    assert (ran.code, ran.out, ran.err) == (0, "", "nothing is known of the scope s\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotFound("gs://b/o is not there"), 3), (Forbidden("no"), 4), (Refused("no"), 5), (DaemonUnreachable("no"), 6),
     (IntegrityFailed("no"), 7), (OriginChanged("no"), 1), (CachedError("no"), 1)],
)  # fmt: skip
def test_each_kind_of_failure_has_its_exit_code(run, client, tmp_path, error, code):
    client.answers.update(dict.fromkeys(("put", "open", "export", "clear", "end_scope"), error))
    (tmp_path / "f").write_bytes(b"abc")
    for arguments in (
        ("put", str(tmp_path / "f"), "gs://b/o"), ("cat", "gs://b/o"), ("get", "gs://b/o", str(tmp_path / "new")),
        ("clear",), ("scope", "end", "s"),
    ):  # fmt: skip
        ran = run(*arguments, "--json")
        assert ran.code == code
        assert ran.error["code"] == error.code


# The program itself


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with running(tmp_path) as daemon:
        monkeypatch.setenv("CACHED_RUNTIME_DIR", str(daemon.runtime))
        monkeypatch.setenv("CACHED_GCS_TOKEN", "tok-ada")
        monkeypatch.chdir(tmp_path)
        yield daemon


def call(*arguments: object, **settings: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CACHED, *map(str, arguments)], check=False, capture_output=True, timeout=180, **settings
    )


def test_what_is_put_can_be_read_and_copied(daemon, tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(data)
    made = call("put", "f", "gs://results/a b", "--scope", "s")
    assert made.returncode == 0, made.stderr
    stored = daemon.node.cloud.objects["results", "a b"]
    assert made.stdout.decode() == f"gs://results/a b#{stored.generation}\n"
    assert (stored.data, stored.scope) == (data, "s")
    assert call("cat", "gs://results/a b", f"gs://results/a b#{stored.generation}").stdout == data + data
    assert call("get", "gs://results/a b", "copy").returncode == 0
    assert (tmp_path / "copy").read_bytes() == data
    assert call("get", "gs://results/a b", "copy").returncode == 2
    assert set(daemon.node.cloud.seen) == {"tok-ada"}


def test_a_minus_as_the_goal_of_get_is_stdout(daemon, tmp_path):
    daemon.node.cloud.plant("gs://results/o", b"abc")
    assert call("get", "gs://results/o", "-").stdout == b"abc"
    assert not (tmp_path / "-").exists()
    assert call("get", "gs://results/o", "./-").returncode == 0
    assert (tmp_path / "-").read_bytes() == b"abc"
    refused = call("get", "nr", "-")
    assert (refused.returncode, b"is a set" in refused.stderr) == (2, True)


def test_a_file_that_is_not_there_is_not_found_when_it_is_put(daemon):
    ran = call("put", "nofile", "gs://results/o")
    assert (ran.returncode, b"there is no nofile" in ran.stderr) == (3, True)


def test_an_instance_that_nobody_names_is_a_mistake_in_the_command(daemon):
    ran = call("list", env={**os.environ, "CACHED_RUNTIME_DIR": "/run/cached-{instance}"})
    assert (ran.returncode, b"no instance is named" in ran.stderr) == (2, True)


def test_what_nothing_keeps_is_written_out_too(daemon, tmp_path):
    daemon.node.cloud.plant("gs://results/far", b"x" * 1_500_000)
    daemon.node.cloud.through.add("far")
    assert call("cat", "gs://results/far").stdout == b"x" * 1_500_000
    assert call("get", "gs://results/far", "copy").returncode == 0
    assert (tmp_path / "copy").stat().st_size == 1_500_000


def test_stdin_is_put_to_its_end(daemon, tmp_path):
    assert call("put", "-", "gs://results/piped", input=b"from a pipe").returncode == 0
    (tmp_path / "f").write_bytes(b"from a file")
    with (tmp_path / "f").open("rb") as file:
        assert call("put", "-", "gs://results/file", stdin=file).returncode == 0
    objects = daemon.node.cloud.objects
    assert objects["results", "piped"].data == b"from a pipe"
    assert objects["results", "file"].data == b"from a file"


def test_a_precondition_that_fails_and_a_token_that_is_none_are_told(daemon, monkeypatch):
    daemon.node.cloud.plant("gs://results/x", b"x")
    ran = call("put", "-", "gs://results/x", "--if-generation", "0", "--json", input=b"y")
    assert ran.returncode == 1
    assert json.loads(ran.stderr)["error"]["code"] == "origin_changed"
    monkeypatch.setenv("CACHED_GCS_TOKEN", "tok-secret two")
    ran = call("cat", "gs://results/x")
    assert ran.returncode == 2
    assert b"secret" not in ran.stderr


def test_an_interrupted_put_stores_nothing(daemon):
    daemon.hold()
    putting = subprocess.Popen(
        [*CACHED, "put", "-", "gs://results/x"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    putting.stdin.write(b"half")
    putting.stdin.close()
    daemon.until(lambda: daemon.node.cloud.calls)
    putting.send_signal(signal.SIGINT)
    assert putting.wait(120) == 130
    putting.stderr.close()
    daemon.until(lambda: daemon.node.cloud.cancelled == 1)
    daemon.go_on()
    assert ("results", "x") not in daemon.node.cloud.objects

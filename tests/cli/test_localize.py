"""`cached localize` as a job calls it: the list, the line at the end, the codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.fake_daemon import Daemon, plant, running


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("CACHED_GCS_TOKEN", "ada")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with running(tmp_path / "node") as started:
        cloud = started.node.cloud
        cloud.plant("gs://bkt/in/a", b"a" * 3000)
        cloud.plant("gs://bkt/in/b", b"b" * 1000)
        cloud.through.add("in/b")
        Path("result").write_bytes(b"result")
        yield started


WISHES: list[dict[str, Any]] = [
    {"from": "gs://bkt/in/*", "to": "w/", "cache": True},
    {"from": "result", "to": "gs://res/run7/"},
]


@pytest.fixture
def localize(run: Any, daemon: Daemon) -> Any:
    def call(wishes: Any, *options: str) -> Any:
        return run("localize", "-", *options, "--runtime-dir", str(daemon.runtime), input=json.dumps(wishes))

    return call


def test_it_ends_with_one_line_about_what_came_from_where(localize, daemon):
    ran = localize(WISHES)
    assert ran.code == 0
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == (
        "in 2 files 3.9 KiB (disk 75 %, origin 25 %), out 1 file 6 B, hit rate 75 %"
    )
    assert Path("w/a").read_bytes() == b"a" * 3000
    assert daemon.node.cloud.objects["res", "run7/result"].data == b"result"


def test_with_json_the_same_facts_are_on_stdout(localize):
    ran = localize(WISHES, "--json", "--scope", "run7", "--at-once", "2")
    assert ran.code == 0
    assert ran.err == ""
    assert ran.json["summary"] == {
        "files_in": 2,
        "bytes_in": 4000,
        "bytes_by_place": {"here": 0, "memory": 0, "disk": 3000, "redis": 0, "peer": 0, "origin": 1000},
        "files_out": 1,
        "bytes_out": 6,
        "hit_rate": 0.75,
    }
    assert {(item["from"], item["place"]) for item in ran.json["items"]} == {
        ("gs://bkt/in/a", "disk"),
        ("gs://bkt/in/b", "origin"),
        ("result", None),
    }


def test_a_dry_run_says_what_would_move_and_moves_nothing(localize, daemon):
    ran = localize(WISHES, "--dry-run")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["gs://bkt/in/a", "w/a", "2.9", "KiB", "-", "no"],
        ["gs://bkt/in/b", "w/b", "1000", "B", "-", "no"],
        ["result", "gs://res/run7/result", "6", "B", "-", "no"],
    ]
    assert not Path("w").exists()
    assert ("res", "run7/result") not in daemon.node.cloud.objects
    assert localize(WISHES, "--dry-run", "--json").json["items"][0]["bytes"] == 3000


def test_a_dry_run_asks_what_there_is_and_what_would_be_replaced(localize, daemon):
    Path("w").mkdir()
    Path("w/a").write_bytes(b"old")
    daemon.node.cloud.plant("gs://genomes/chr1", b"abc")
    daemon.node.cloud.plant("gs://res/run7/result", b"old")
    wishes = [*WISHES, {"from": "gs://genomes/chr1", "to": "w/"}, {"from": "gs://bkt/none", "to": "x"}]
    ran = localize(wishes, "--dry-run", "--json")
    assert ran.code == 3
    found = {item["from"].partition("#")[0]: item for item in ran.json["items"]}
    assert found["gs://genomes/chr1"]["bytes"] == 3
    assert found["gs://genomes/chr1"]["place"] == "disk"
    assert found["gs://bkt/in/a"]["place"] is None
    assert {name: item["replaces"] for name, item in found.items()} == {
        "gs://bkt/in/a": True,
        "gs://bkt/in/b": False,
        "gs://genomes/chr1": False,
        "result": True,
    }
    assert [item["from"] for item in ran.json["failed"]] == ["gs://bkt/none"]
    assert Path("w/a").read_bytes() == b"old"
    assert not Path("x").exists()


def test_a_dry_run_knows_the_sets(localize, run, daemon):
    plant(Path("tree"))
    assert run("create", "nr", "tree", "--runtime-dir", str(daemon.runtime)).code == 0
    ran = localize([{"from": "nr", "to": "db"}, {"from": "nr/none", "to": "x"}], "--dry-run", "--json")
    assert ran.code == 3
    (item,) = ran.json["items"]
    assert (item["kind"], item["place"], item["replaces"]) == ("set", "here", False)
    assert item["bytes"] > 0
    assert "nr/none" in ran.json["failed"][0]["error"]["message"]
    assert not Path("db").exists()


def test_all_errors_are_told_the_line_comes_last_and_the_code_is_the_highest(localize, daemon):
    wishes = [*WISHES, {"from": "gs://bkt/none", "to": "x"}, {"from": "gone", "to": "gs://bkt/y"}]
    ran = localize(wishes)
    assert ran.code == 3
    assert "gs://bkt/none" in ran.err
    assert "gone" in ran.err
    assert ran.err.splitlines()[-1].startswith("in 2 files")
    assert Path("w/a").exists()
    ran = localize(wishes, "--json")
    assert ran.code == 3
    assert {item["from"] for item in ran.error["details"]["items"]} == {"gs://bkt/none", "gone"}
    assert len(ran.json["failed"]) == 2
    assert ran.json["summary"]["files_in"] == 2


def test_a_list_that_cannot_be_read_is_a_usage_error(localize, run, daemon):
    assert localize([{"from": "gs://bkt/a"}]).code == 2
    assert localize([{"from": "gs://bkt/a", "to": "b", "keep": 1}]).code == 2
    assert run("localize", "missing.json").code == 1
    twice = [{"from": "gs://bkt/in/a", "to": "w/b"}, {"from": "gs://bkt/in/b", "to": "w/b"}]
    ran = localize(twice)
    assert ran.code == 2
    assert "both become" in ran.err


def test_sets_come_along_from_a_list_in_a_file(run, daemon, tmp_path):
    daemon.node.put("nr", plant(tmp_path / "source"))
    Path("list.json").write_text(json.dumps({"items": [{"from": "nr", "to": "db"}]}))
    ran = run("localize", "list.json", "--runtime-dir", str(daemon.runtime))
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "in 4 files 10.0 KiB (here 100 %), out 0 files 0 B, hit rate 100 %"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing(daemon, number, code):
    daemon.hold()
    asked = len(daemon.node.cloud.calls)
    program = subprocess.Popen(
        [sys.executable, "-c", "from cached_cli.main import main; main()", "localize", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "CACHED_RUNTIME_DIR": str(daemon.runtime)},
    )
    assert program.stdin is not None
    program.stdin.write(json.dumps(WISHES[:1]).encode())
    program.stdin.close()
    daemon.until(lambda: len(daemon.node.cloud.calls) >= asked + 2)
    program.send_signal(number)
    assert program.wait(120) == code
    assert not list(Path("w").iterdir()) if Path("w").exists() else True

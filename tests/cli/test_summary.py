"""`exec` ends with one line about its sets, and it is in nobody's way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.api.fake_daemon import Daemon, plant, running

CACHED = [sys.executable, "-c", "from cached_cli.main import main; main()", "exec"]
ALL = "in 4 files 10.0 KiB (here 100 %), out 0 files 0 B, hit rate 100 %"
FETCHED = "in 4 files 10.0 KiB (peer 100 %), out 0 files 0 B, hit rate 0 %"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with running(tmp_path / "node") as started:
        started.node.put("nr", plant(tmp_path / "source"))
        monkeypatch.setenv("CACHED_RUNTIME_DIR", str(started.runtime))
        yield started


def call(*arguments: str, **settings: Any) -> Any:
    return subprocess.run(
        [*CACHED, *arguments], capture_output=True, text=True, timeout=180, check=False, **settings
    )


def test_it_is_said_after_the_command_on_stderr_alone(daemon):
    ended = call("nr", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert ended.returncode == 7
    assert ended.stdout == "out\n"
    assert ended.stderr.splitlines() == ["err", ALL]


def test_nothing_is_said_where_it_is_not_wanted(daemon):
    assert call("nr", "--no-summary", "--", "true").stderr == ""


def test_what_had_to_be_fetched_is_told_apart_for_whole_sets_and_parts_of_them(daemon):
    (made,) = daemon.node.sets.values()
    made.here = False
    assert call("nr", "--", "true").stderr.splitlines() == [FETCHED]
    part = call("nr/sub", "--json", "--", "true")
    assert json.loads(part.stderr)["summary"]["bytes_by_place"]["here"] == 256 * 40
    assert call("nr", "--view", "--", "true").stderr.splitlines()[-1] == ALL


def test_what_the_line_needs_never_fails_the_command(daemon, monkeypatch):
    async def broken(*_: Any) -> Any:
        raise RuntimeError

    daemon.node.show = broken  # type: ignore[method-assign]
    ended = call("nr", "--", "true")
    assert ended.returncode == 0

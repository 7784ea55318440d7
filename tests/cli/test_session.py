"""Global options, places of sockets, and progress."""

from __future__ import annotations

import threading
from pathlib import Path

from cached import wire

from cached_cli import progress
from cached_cli.output import left, talk
from cached_cli.progress import PATIENCE, Meter, patiently, reasons
from cached_cli.session import Session, instance_dirs


def test_an_instance_is_looked_for_where_its_daemon_puts_its_sockets():
    found = list(instance_dirs("b", {"XDG_RUNTIME_DIR": "/run/user/5"}, 5))
    assert found == [Path("/run/cached-b"), Path("/run/user/5/cached-b"), Path("/tmp/cached-5-b")]
    assert next(instance_dirs("b", {"CACHED_RUNTIME_DIR": "/x/{instance}/run"}, 5)) == Path("/x/b/run")
    assert next(instance_dirs("b", {"CACHED_RUNTIME_DIR": "/x/run"}, 5)) == Path("/x/run-b")


def test_the_instance_that_is_there_is_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("CACHED_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "cached-b").mkdir()
    (tmp_path / "cached-b" / "api.sock").touch()
    assert Session(instance="b").sockets() == tmp_path / "cached-b"
    assert Session(instance="b", runtime_dir=Path("/x")).sockets() == Path("/x")
    assert Session().sockets() is None


def test_off_a_terminal_only_why_it_does_not_move_is_told_and_once(capsys):
    now = [0.0]
    with Meter("nr", Session(), now=lambda: now[0]) as meter:
        for present in range(10):
            now[0] += PATIENCE / 4
            meter(wire.Progress(bytes_present=present << 20, bytes_wanted=10 << 20))
        assert capsys.readouterr() == ("", "")
        for reason in ("no source", "no source", "all peers unreachable", "no source"):
            now[0] += 1
            meter(wire.Progress(bytes_present=1, bytes_wanted=10 << 20, reason=reason))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["nr: no source", "nr: all peers unreachable"]


def test_a_reason_that_counts_seconds_is_told_once(capsys):
    now = [0.0]
    with Meter("nr", Session(), now=lambda: now[0]) as meter:
        now[0] = PATIENCE
        for seconds in range(10, 14):
            gone = [{"node": f"n{one}", "reason": f"node not seen for {seconds} s"} for one in (1, 2)]
            meter({"nodes": gone})
    said = capsys.readouterr().err.splitlines()
    assert said == ["nr on n1: node not seen for 10 s", "nr on n2: node not seen for 10 s"]


def test_a_reason_that_passes_within_seconds_is_not_worth_a_line(capsys):
    with Meter("nr", Session(), now=lambda: 0.0) as meter:
        meter(wire.Progress(reason="no source"))
    assert capsys.readouterr() == ("", "")


def test_with_json_progress_is_silent(capsys):
    with Meter("nr", Session(json=True), now=lambda: 1e9) as meter:
        meter(wire.Progress(bytes_present=1))
    assert capsys.readouterr() == ("", "")


def test_of_several_nodes_each_has_its_own_reason():
    nodes = [{"node": "n1", "bytes_present": 1}, {"node": "n2", "reason": "no source"}]
    assert reasons("nr", {"nodes": nodes}) == ["nr on n2: no source"]


def test_a_lease_just_granted_reads_as_granted():
    assert [left(value) for value in (172_799.4, 3599.2, 89.1, 0, None)] == [
        "2d",
        "1h",
        "1m 30s",
        "expired",
        "-",
    ]


def test_what_takes_long_without_reports_is_explained_too(capsys, monkeypatch):
    said = threading.Event()
    monkeypatch.setattr(progress, "talk", lambda words: (talk(words), said.set()))
    with patiently("no answer yet", Session(), after=0.001):
        assert said.wait(60)
    assert capsys.readouterr().err == "no answer yet\n"
    for session, after in ((Session(json=True), 0.0), (Session(), 3600.0)):
        with patiently("no answer yet", session, after=after):
            pass
    assert capsys.readouterr() == ("", "")

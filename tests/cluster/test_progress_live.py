"""Progress of real transfers: bars on a terminal, never on a pipe; the same figures as JSON."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time

import pytest
from tests.cluster.kit import has, noise, start
from tests.daemons.node import program

pytestmark = pytest.mark.daemon

MB = 1_000_000


def on_a_terminal(node, *words: str, until) -> str:
    """Run a command with its stderr on a terminal until what it shows satisfies `until`; return what it showed."""
    ours, theirs = pty.openpty()
    command = run(subprocess.Popen, node, words, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = ""
    try:
        deadline = time.monotonic() + 120
        while not until(plain(shown)):
            assert time.monotonic() < deadline, shown
            shown += os.read(ours, 65536).decode(errors="replace")
    finally:
        command.terminate()
        command.wait()
        os.close(ours)
    return plain(shown)


def run(how, node, words, **streams):
    """Run `cached` as people do, without `--json`."""
    environment = node._client_env(None, {"TERM": "xterm", "COLUMNS": "160"})
    return how([*program(None)[0], *words], stdin=subprocess.DEVNULL, env=environment, **streams)


def plain(shown: str) -> str:
    """Return what a terminal was sent, without what only moves and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def moving(name: str):
    """Tell whether a bar of that name was shown with bytes, rate and time left."""
    bar = re.compile(rf"{name} .*\d MiB.*\d (KiB|MiB)/s.*(\d+s|\d+m \d+s) left")
    return bar.search


def test_whoever_waits_on_a_terminal_sees_bytes_rate_and_time_left_of_each_node(cluster):
    a = cluster.start("a", replication_upload_limit="2MB")
    b, c = start(cluster, "bc")
    cluster.together()
    files = cluster.tree("s", {"f": noise(100 * MB)})
    a.cli("create", "s", files, "--replicas", "all")
    shown = on_a_terminal(
        a, "replicate", "s", "--wait", until=lambda text: moving("b")(text) and moving("c")(text)
    )
    assert "transferring" in shown
    on_a_terminal(b, "exec", "s", "--", "true", until=moving("b"))
    on_a_terminal(c, "get", "s", str(cluster.work / "copy"), until=moving("c"))
    copies = cluster.wait_for(
        lambda: [
            one
            for one in a.show("s")["replicas"]
            if one["node"] != "a" and one["bytes_per_second"] and one["bytes_present"]
        ]
    )
    for one in copies:
        assert one["state"] == "TRANSFERRING"
        assert 0 < one["bytes_present"] < 100 * MB
        assert one["seconds_left"] > 0
        assert one["reason"] == ""
    whole = next(one for one in a.show("s")["replicas"] if one["node"] == "a")
    assert (whole["bytes_per_second"], whole["seconds_left"]) == (None, None)


def test_on_a_pipe_nothing_is_shown_of_what_moves(cluster):
    a = cluster.start("a", replication_upload_limit="2MB")
    b = cluster.start("b")
    cluster.together()
    files = cluster.tree("s", {"f": noise(14 * MB)})
    a.cli("create", "s", files, "--replicas", "all")
    cluster.wait_for(lambda: b.show("s"))
    words = ("exec", "s", "--no-summary", "--", "true")
    waited = run(subprocess.run, b, words, capture_output=True, text=True, check=True)
    assert has(b, "s")
    assert waited.stderr == ""

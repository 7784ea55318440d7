"""What the README promises to work when typed, and `make demo`, run as a newcomer runs them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.daemon


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CACHED_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"} | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_tour_of_the_readme_works_when_typed(tmp_path):
    text = (ROOT / "README.md").read_text()
    tour = text[text.index("## A five-minute tour") : text.index("## Using it")]
    typed = "".join(re.findall(r"^```sh\n(.*?)^```", tour, re.MULTILINE | re.DOTALL))
    assert "make install\n" in typed
    script = typed.replace("make install\n", "").replace("/tmp/cached-tour", str(tmp_path / "t"))
    script = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n" + script.replace("7480", str(free_port()))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in ("COMMITTED", "for everybody", "b'1\\n'", "TARGET.Site is undefined"):
        assert said in done.stdout
    for said in ("the lease is shorter than asked: 7d asked, 2d granted", "are as the manifest says"):
        assert said in done.stderr
    assert not (tmp_path / "t").exists()


def test_the_demonstration_works_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench.demo"],
        cwd=ROOT,
        env=environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "delta refused: set side" in done.stdout
    assert "all processes ended, all files removed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demonstration_leaves_nothing_behind(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "bench.demo"],
        cwd=ROOT,
        env=environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if shlex.split(line, posix=False)[:2] == ["alpha$", "cached"] and " create " in line:
            break
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait() == 130
    assert "all processes ended, all files removed" in rest
    assert list(tmp_path.iterdir()) == []

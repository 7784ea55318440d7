"""The command under `exec`: codes, signals, and what cannot be run."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from cached_cli.child import FORWARDED, CannotRunError, Relay, undisturbed
from cached_cli.view import remove_tree, temporary_tree


def through(*arguments: str) -> int:
    with undisturbed(), Relay() as relay:
        return relay.run(arguments, os.environ)


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_code_of_the_command_passes_through(code):
    assert through("sh", "-c", f"exit {code}") == code


@pytest.mark.parametrize("name", ["KILL", "TERM", "INT", "ABRT"])
def test_death_by_a_signal_is_128_plus_its_number(name):
    assert through("sh", "-c", f"kill -{name} $$") == 128 + getattr(signal, f"SIG{name}")


def test_a_command_that_is_not_there_is_127_and_one_that_cannot_be_executed_126(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF broken")
    broken.chmod(0o755)
    cases = [("cached-no-such-command", 127), (plain, 126), (tmp_path, 126), (broken, 126), ("a\0b", 125)]
    for command, status in cases:
        with pytest.raises(CannotRunError) as failure:
            through(str(command))
        assert failure.value.exit_status == status


def test_the_command_starts_with_the_signals_that_a_shell_would_give_it(tmp_path):
    before = [signal.getsignal(number) for number in FORWARDED]
    with undisturbed():
        said = tmp_path / "status"
        assert through("sh", "-c", f"grep '^Sig' /proc/self/status > {said}") == 0
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in said.read_text().splitlines()
        if "/" not in line
    }
    assert not masks["SigIgn"] & (1 << (signal.SIGPIPE - 1))
    assert [signal.getsignal(number) for number in FORWARDED] == before
    assert not masks["SigBlk"] & (1 << (signal.SIGTERM - 1))


FORWARDER = """
import os, sys
import threading, time
from cached_cli.child import Relay, undisturbed
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
with undisturbed(), Relay() as relay:
    sys.exit(relay.run(["sh", "-c", sys.argv[1]], os.environ))
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_signals_are_passed_on_to_the_command(name):
    script = f"trap 'echo got; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [sys.executable, "-c", FORWARDER, script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == "got\n"
        assert process.wait(120) == 7


def test_a_signal_before_the_command_starts_is_not_lost():
    with undisturbed(), Relay() as relay:
        os.kill(os.getpid(), signal.SIGTERM)
        assert relay.run(["sleep", "60"], os.environ) == 128 + signal.SIGTERM


def test_ctrl_c_on_a_terminal_reaches_the_command_once():
    script = "trap 'echo got' INT; echo ready; read answer; echo done; exit 5"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", FORWARDER, script])
    with os.fdopen(terminal, "rb+", buffering=0) as screen:
        shown = b""
        while b"ready" not in shown:
            shown += screen.read(1024)
        screen.write(b"\x03")
        while b"got" not in shown:
            shown += screen.read(1024)
        screen.write(b"x\n")
        while b"done" not in shown:
            shown += screen.read(1024)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert shown.count(b"got") == 1


def test_a_signal_that_is_ignored_stays_ignored_for_the_command():
    script = "kill -HUP $$; exit 4"
    command = ["nohup", sys.executable, "-c", FORWARDER, script]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 4


def test_what_is_to_be_cleaned_up_is_cleaned_up_on_sigterm(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def interrupted() -> None:
        with undisturbed(), temporary_tree() as tree:
            (tree / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ending:
        interrupted()
    assert ending.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_read_only_tree_is_removed(tmp_path):
    deep = tmp_path / "view" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for directory in (deep, deep.parent, tmp_path / "view"):
        directory.chmod(0o555)
    remove_tree(tmp_path / "view")
    assert not (tmp_path / "view").exists()

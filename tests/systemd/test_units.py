"""The unit files, judged by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)


def settings(unit: str) -> dict[str, str]:
    lines = (UNITS / unit).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@analyze
def test_systemd_finds_nothing_wrong_with_the_units():
    done = run("systemd-analyze", "verify", *UNITS.glob("*.service"), *UNITS.glob("*.socket"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@analyze
def test_the_service_exposes_little():
    done = run(
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--threshold=15",
        "--no-pager",
        UNITS / "cached.service",
    )
    assert done.returncode == 0, done.stdout


def test_what_the_daemon_must_see_stays_visible():
    service = settings("cached.service")
    assert service["PrivateUsers"] == "no", "callers would all look like nobody"
    assert service["ProtectProc"] == "default", "pins need the start times of other users' processes"
    assert service["ProcSubset"] == "all", "the boot id lies in /proc/sys"
    assert service["RemoveIPC"] == "no", "the memory tier in /dev/shm outlives the service"


def test_no_dump_takes_tokens_to_disk_or_to_a_program():
    assert settings("cached.service")["LimitCORE"] == "1"


def test_the_sockets_survive_a_restart_of_the_service():
    assert settings("cached.socket")["RemoveOnStop"] == "no"
    service = settings("cached.service")
    assert (service["RuntimeDirectoryPreserve"], service["Requires"]) == ("yes", "cached.socket")


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_account_is_made(tmp_path):
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", UNITS / "cached.sysusers")
    assert done.returncode == 0, done.stderr
    assert "cached:" in (tmp_path / "etc/passwd").read_text()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories away")
def test_the_directories_are_made_with_their_modes(tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0::/:/bin/false\ncached:x:990:990::/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\ncached:x:990:\n")
    key = etc / "cached/cluster.key"
    key.parent.mkdir()
    key.write_text("secret")
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", UNITS / "cached.tmpfiles")
    assert done.returncode == 0, done.stderr
    for name, mode in {"run/cached": 0o755, "var/lib/cached": 0o700, "var/cache/cached": 0o700}.items():
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
        assert (tmp_path / name).stat().st_uid == 990
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (990, 0o600), "the daemon refuses any other"

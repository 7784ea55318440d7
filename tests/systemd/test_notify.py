"""Talking to a service manager, with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from cached import notify


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inlet:
        inlet.bind(str(tmp_path / "notify"))
        inlet.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield inlet


def test_the_manager_hears_readiness_status_and_the_stop(manager):
    notify.ready("3 sets,\n2 peers")
    notify.status("draining")
    notify.stopping()
    heard = [manager.recv(1000).decode() for _ in range(3)]
    assert heard == ["READY=1\nSTATUS=3 sets, 2 peers", "STATUS=draining", "STOPPING=1"]


def test_abstract_addresses_work(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inlet:
        inlet.bind(f"\0cached-test-{os.getpid()}")
        inlet.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@cached-test-{os.getpid()}")
        notify.stopping()
        assert inlet.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket"])
def test_without_a_manager_nothing_happens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready("alone")


CHILD = """
import os, socket, sys
for target, descriptor in enumerate(map(int, sys.argv[2:]), 3):
    os.dup2(descriptor, 100 + target)
for target in range(3, 1 + len(sys.argv)):
    os.dup2(100 + target, target)
os.environ.update(LISTEN_FDS=str(len(sys.argv) - 2), LISTEN_FDNAMES="cached")
os.environ.update(LISTEN_PID=sys.argv[1] or str(os.getpid()))
from cached import notify
found = notify.inherited()
print({name: int(one.type) for name, one in found.items()}, [one.get_inheritable() for one in found.values()])
print([name for name in os.environ if name.startswith("LISTEN_")], notify.inherited())
"""


@pytest.mark.parametrize(
    ("pid", "expected"),
    [("", "{'api.sock': 1, 'data.sock': 5} [False, False]"), ("1", "{} []")],
    ids=["for us", "for another process"],
)
def test_sockets_are_taken_over_by_name_once_and_only_by_whom_they_are_meant_for(tmp_path, pid, expected):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as api,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as data,
    ):
        for listening, name in ((api, "api.sock"), (data, "data.sock")):
            listening.bind(str(tmp_path / name))
            listening.listen()
        passed = [api.fileno(), data.fileno()]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, pid, *map(str, passed)],
            pass_fds=passed,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.splitlines() == [expected, "[] {}"]

"""Who is calling, asked of the kernel over real sockets."""

from __future__ import annotations

import os
import pwd
import socket
import struct
import subprocess
import sys

import pytest
from cached.api import auth
from cached.api.auth import Callers, start_time, user_name
from cached.errors import Forbidden


class Fake:
    """A socket whose kernel says what the test wants."""

    def __init__(self, pid, uid, gid, groups=None) -> None:
        self.credentials, self.groups = struct.pack("3I", pid, uid, gid), groups

    def getsockopt(self, level, option, size):
        if option == socket.SO_PEERCRED:
            return self.credentials
        if self.groups is None:
            raise OSError
        return struct.pack(f"{len(self.groups)}I", *self.groups)


def caller_of(peer, admins=("root",), **options):
    return Callers(admins=admins, **options).caller_of(peer)


def test_a_real_socket_names_this_process():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        caller = caller_of(left)
    assert (caller.pid, caller.uid, caller.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert caller.user == pwd.getpwuid(os.getuid()).pw_name
    assert caller.start_time == start_time(os.getpid()) > 0


def test_supplementary_groups_come_from_the_process():
    assert caller_of(Fake(1, 0, 0, [1, 2**31])).groups == {"root", "daemon", f"gid-{2**31}"}


def test_without_that_option_groups_come_from_the_user_database():
    caller = caller_of(Fake(1, 0, 12345))
    assert {"root", "gid-12345"} >= caller.groups >= {"gid-12345"}


def test_a_uid_without_a_name_is_called_by_its_number():
    assert caller_of(Fake(1, 4_000_000_001, 0, [])).user == "uid-4000000001"


@pytest.mark.parametrize("name", ["uid-0", "alice@elsewhere", "a:b", "a/b", "a b", ""])
def test_a_name_that_could_be_taken_for_another_is_not_used(monkeypatch, name):
    monkeypatch.setattr(auth.pwd, "getpwuid", lambda uid: pwd.struct_passwd((name, "", uid, 0, "", "", "")))
    assert user_name(77) == "uid-77"


def test_the_domain_is_part_of_the_user():
    caller = caller_of(Fake(1, 0, 0, []), user_domain="unl.edu")
    assert caller.user == "root@unl.edu"
    assert caller.admin


def test_admins_are_named_with_or_without_the_domain():
    assert caller_of(Fake(1, 1, 1, []), admins=["daemon"]).admin
    assert caller_of(Fake(1, 1, 1, []), admins=["daemon@d"], user_domain="d").admin
    assert not caller_of(Fake(1, 1, 1, []), admins=["daemon@e"], user_domain="d").admin
    assert not caller_of(Fake(1, 1, 1, []), admins=["root"]).admin
    assert not caller_of(Fake(1, 0, 0, []), admins=[]).admin


def test_nobody_but_uid_0_is_root(monkeypatch):
    monkeypatch.setattr(auth.pwd, "getpwuid", lambda uid: pwd.struct_passwd(("root", "", uid, 0, "", "", "")))
    assert not caller_of(Fake(1, 77, 1, [])).admin


def test_the_overflow_uid_is_nobody_and_refused():
    uid = int(auth._OVERFLOW_UID.read_text())
    with pytest.raises(Forbidden, match="cannot tell who"):
        caller_of(Fake(1, uid, uid, []))


def test_names_are_remembered_for_a_while_only(monkeypatch):
    now, asked = [0.0], []

    def ask(uid):
        asked.append(uid)
        return f"u{len(asked)}"

    monkeypatch.setattr(auth, "user_name", ask)
    callers = Callers(admins=[], clock=lambda: now[0])
    assert [callers.caller_of(Fake(1, 77, 1, [])).user for _ in range(3)] == ["u1"] * 3
    now[0] = 31.0
    assert callers.caller_of(Fake(1, 77, 1, [])).user == "u2"


def test_a_process_that_is_gone_has_no_start_time():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert start_time(process.pid) >= start_time(os.getpid())
    process.communicate(b"\n")
    assert start_time(process.pid) == 0

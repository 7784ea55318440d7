"""Who is calling, asked of the kernel and of nobody else.

`SO_PEERCRED` names the process and the user of a connected Unix socket as of connect; nothing that the client
sends can change it. A uid that the kernel could not translate (the overflow uid, from another user namespace)
is everybody and nobody: refused.
"""

from __future__ import annotations

import array
import grp
import os
import pwd
import socket
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from cached.errors import BadName, Forbidden
from cached.node.caller import Caller
from cached.sets.names import check_owner

_SO_PEERGROUPS: Final = 59
_CREDENTIALS: Final = struct.Struct("3i")
_GID: Final = array.array("I").itemsize
#: Longest answer that `socket.getsockopt` takes, in bytes; more groups than that are asked of the user
#: database.
_MOST_GROUPS: Final = 1024
#: More than /proc/PID/stat ever has.
_STAT_BYTES: Final = 4096
_OVERFLOW_UID: Final = Path("/proc/sys/kernel/overflowuid")
#: Names are asked again after so many seconds, so that a renamed user or group is noticed.
_REMEMBER_SECONDS: Final = 30.0
_REMEMBER_NAMES: Final = 4096


class PeerSocket(Protocol):
    """What is needed of a connected socket; asyncio's transport sockets have it too."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """Return the raw value of a socket option."""


class Callers:
    """Turns connected Unix sockets into callers."""

    def __init__(
        self,
        *,
        admins: Iterable[str],
        user_domain: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admins = frozenset(admins)
        self._domain = user_domain
        self._clock = clock
        self._overflow_uid = int(_OVERFLOW_UID.read_text())
        self._users: dict[int, tuple[float, str]] = {}
        self._groups: dict[int, tuple[float, str]] = {}

    def caller_of(self, connection: PeerSocket) -> Caller:
        """Return the caller behind a connection; raises `Forbidden` for a user whom this node cannot tell
        apart.
        """
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        uid, gid = uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
        if uid == self._overflow_uid:
            raise Forbidden(
                "this node cannot tell who is calling: the user is not mapped into its user namespace",
                hint="run outside of the container's user namespace, or map the user into it",
                uid=uid,
            )
        name = self._remembered(self._users, uid, user_name)
        gids = {gid, *_supplementary(connection, uid, gid)}
        return Caller(
            uid=uid,
            gid=gid,
            user=f"{name}@{self._domain}" if self._domain else name,
            groups=frozenset(self._remembered(self._groups, each, group_name) for each in gids),
            admin=self._is_admin(uid, name),
            pid=pid,
            start_time=start_time(pid),
        )

    def _is_admin(self, uid: int, name: str) -> bool:
        names = {name, f"{name}@{self._domain}"} | ({"root"} if uid == 0 else set())
        return not self._admins.isdisjoint(names) and (uid == 0 or name != "root")

    def _remembered(self, names: dict[int, tuple[float, str]], key: int, ask: Callable[[int], str]) -> str:
        now = self._clock()
        known = names.get(key)
        if known is not None and known[0] > now:
            return known[1]
        if len(names) >= _REMEMBER_NAMES:
            names.clear()
        name = ask(key)
        names[key] = (now + _REMEMBER_SECONDS, name)
        return name


def uid_of(connection: PeerSocket) -> int:
    """Return the uid behind a connection, as the kernel has it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1]) & 0xFFFFFFFF


def user_name(uid: int) -> str:
    """Return the user's name on this node; `uid-N` when there is none, or none that could stand in an owner's
    name.
    """
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
    return name if _usable(name) else f"uid-{uid}"


def _usable(name: str) -> bool:
    """Tell whether a user of that name cannot be taken for another domain's, or for a uid without a name."""
    try:
        check_owner(name)
    except BadName:
        return False
    return "@" not in name and not name.startswith("uid-")


def group_name(gid: int) -> str:
    """Return the group's name on this node; `gid-N` when there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid-{gid}"


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it is gone or not visible here."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        stat = os.read(descriptor, _STAT_BYTES)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return int(stat.rpartition(b")")[2].split()[19])


def _supplementary(connection: PeerSocket, uid: int, gid: int) -> list[int]:
    """Return the process's groups as of connect; on a kernel that cannot say, those of the user database."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    except OSError:
        return _listed_groups(uid, gid)
    return array.array("I", raw[: len(raw) - len(raw) % _GID]).tolist()


def _listed_groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except (KeyError, OSError):
        return []

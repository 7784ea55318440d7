"""This machine as the kernel describes it: clocks, memory, processors, and who the daemon runs as."""

from __future__ import annotations

import contextlib
import grp
import os
import platform
import pwd
import socket
import time
from pathlib import Path

from cached.errors import BadConfig
from cached.leases.deadline import Moment

#: Users below this uid are services, not people.
FIRST_PERSON = 1000

#: Filesystems (magic numbers of statfs(2)) on which SQLite's locks and fsync cannot be trusted.
NETWORK_FILESYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "9p", "afs", "beegfs", "glusterfs", "fuse.sshfs",
    "pvfs2",
}  # fmt: skip


class SystemClock:
    """The real clocks of this machine."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def now(self) -> Moment:
        """Read boottime and wall clock."""
        return Moment(
            boot_id=self.boot_id, boottime=time.clock_gettime(time.CLOCK_BOOTTIME), wall=time.time()
        )


def hostname() -> str:
    """Return the host's name without its domain, fit for a node's label."""
    name = socket.gethostname().partition(".")[0]
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name) or "node"


def user() -> str:
    """Return the name of the user whom the daemon runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid-{os.geteuid()}"


def isolation() -> str:
    """Return `uid` when jobs run as other users than the daemon, `none` when they share its uid.

    A daemon of root's or of a service account is apart from its jobs; one that a person started is that person.
    """
    return "uid" if os.geteuid() < FIRST_PERSON else "none"


def memory_bytes() -> int:
    """Return the physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpus() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))


def uname() -> tuple[str, str]:
    """Return architecture and operating system as `uname` names them."""
    return platform.machine(), platform.system()


def filesystem_of(path: Path) -> str:
    """Return the type of the filesystem that holds `path`, or will once it is made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        words = line.split(" ")
        place = words[1].encode("latin-1", "replace").decode("unicode_escape")
        inside = real == place or real.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, words[2]
    return kind


def make_runtime_dir(folder: Path) -> None:
    """Make the directory of the local sockets. Raises `BadConfig` when others could put theirs there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        link, facts = folder.lstat(), folder.stat()
    except OSError as error:
        raise BadConfig(
            f"runtime_dir {folder} cannot be used: {error.strerror}", hint="set [node] runtime_dir"
        ) from error
    for found in (link, facts):  # whoever owns a link may lead it elsewhere
        if found.st_uid not in (os.geteuid(), 0):
            raise BadConfig(
                f"runtime_dir {folder} belongs to user {found.st_uid}", hint="set [node] runtime_dir"
            )
    if facts.st_mode & 0o022:
        raise BadConfig(f"others may write to runtime_dir {folder}", hint=f"chmod go-w {folder}")


def groups_of(user: str) -> frozenset[str]:
    """Return the names of the groups of a user of this machine; none for one whom it does not know."""
    try:
        gids = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except (KeyError, OSError):
        return frozenset()
    names = set()
    for gid in gids:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(gid).gr_name)
    return frozenset(names)

"""Symbolic links to sets in the working directory: made where it is local, taken away at the end.

What stands there already is judged first: the caller's dead link is replaced, anything else is left alone. On
a network filesystem no link is made, because other nodes would see it and it would mean nothing to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

Verdict = Literal["make", "replace", "leave"]

#: Directory names of the trees that `--view` makes.
VIEW_PREFIX: Final = "cached-view-"
_OURS: Final = re.compile(rf"/proc/\d+/fd/\d+(/.*)?|/.*/{VIEW_PREFIX}[^/]+/[^/]+(/.*)?")

#: What stat(2) says of a link that leads nowhere.
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

#: `f_type` of filesystems that other hosts see too, or may (linux/magic.h, the projects' own headers).
NETWORK_FILESYSTEMS: Final = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x65735546: "fuse",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x01021997: "9p",
    0xAAD7AAEA: "panfs",
    0x19830326: "beegfs",
    0x20030528: "orangefs",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0x786F4256: "vboxsf",
}


def judge(existing: str | None, *, is_link: bool, alive: bool | None, ours: bool) -> Verdict:
    """Decide about a name in the working directory.

    `existing` is the target of the link there, or None when nothing is there; `alive`: the target can be
    reached, None when that cannot be told; `ours`: the link belongs to the caller. What cannot be told of a
    link that an earlier `exec` left means that its process is gone and the number is somebody else's.
    """
    if existing is None and not is_link:
        return "make"
    if alive is None:
        alive = existing is None or _OURS.fullmatch(existing) is None
    return "replace" if is_link and ours and not alive else "leave"


def inspect(path: Path) -> Verdict:
    """Look at `path`, without following it, and judge."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return judge(None, is_link=False, alive=False, ours=False)
    target = os.readlink(path) if path.is_symlink() else ""
    return judge(target, is_link=bool(target), alive=_reachable(path), ours=found.st_uid == os.geteuid())


def network_filesystem(directory: Path) -> str:
    """Return the kind of network filesystem that holds `directory`; empty when it is local."""
    return NETWORK_FILESYSTEMS.get(_filesystem_type(directory), "")


@contextlib.contextmanager
def linked(directory: Path, links: dict[str, str], say: Callable[[str], None]) -> Iterator[None]:
    """Keep the links (name to target) in `directory` for a while; say which cannot be made, and go on."""
    kind = network_filesystem(directory)
    if kind and links:
        say(f"no links here: {directory} is on {kind}, where other nodes would see them; use the variables")
        links = {}
    made = {name: target for name, target in links.items() if make(directory / name, target, say)}
    try:
        yield
    finally:
        for name, target in made.items():
            remove(directory / name, target)


def make(path: Path, target: str, say: Callable[[str], None]) -> bool:
    """Make one link; return whether it is there now and ours to remove."""
    try:
        verdict = inspect(path)
        if verdict == "replace":
            path.unlink()
        if verdict != "leave":
            path.symlink_to(target)
            return True
        say(f"no link {path.name}: something of that name is there; use the variable or NAME=LINK")
    except OSError as error:
        say(f"no link {path.name}: {error.strerror}; use the variable")
    return False


def remove(path: Path, target: str) -> None:
    """Remove a link when it is still the one that was made."""
    with contextlib.suppress(OSError):
        if os.readlink(path) == target:
            path.unlink()


def _reachable(path: Path) -> bool | None:
    try:
        path.stat()
    except OSError as error:
        return False if error.errno in _GONE else None
    return True


def _filesystem_type(directory: Path) -> int:
    """Return `f_type` of statfs(2), the first word of its answer everywhere; 0 when it cannot be told."""
    answer = (ctypes.c_long * 64)()
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(directory), ctypes.byref(answer)) != 0:
        return 0
    return int(answer[0]) & 0xFFFFFFFF

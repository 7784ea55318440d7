"""Listening Unix sockets: made without a moment in which clients find none, and at paths of any length."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cached.errors import BadConfig

#: Anybody on the node may connect; what they may do is decided by who they are.
_MODE: Final = 0o666
_BACKLOG: Final = 1024

#: Kind of `data.sock`.
PACKETS: Final = socket.SOCK_SEQPACKET
#: Kind of `api.sock`.
STREAM: Final = socket.SOCK_STREAM


def listen(path: Path, kind: int) -> socket.socket:
    """Listen at `path` with a non-blocking socket of `kind` (`PACKETS` or `STREAM`).

    A dead daemon's socket is replaced in one step; raises `BadConfig` when a living one answers there.
    """
    server = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _reachable(path.parent) as folder:
            if _somebody_answers(f"{folder}/{path.name}", kind):
                raise BadConfig(
                    f"another daemon listens on {path}", hint="stop it, or set another node.runtime_dir"
                )
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            server.bind(f"{folder}/{fresh.name}")
        fresh.chmod(_MODE)
        server.listen(_BACKLOG)
        fresh.rename(path)
    except BaseException:
        server.close()
        raise
    return server


def forget(path: Path) -> None:
    """Remove the socket at `path`, if there is one; for an orderly stop."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


@contextlib.contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """Give a short name for a directory: a socket's address holds no more than 107 bytes."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _somebody_answers(address: str, kind: int) -> bool:
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except TimeoutError:
            return True
        except OSError:
            return False
        return True

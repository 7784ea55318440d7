"""Where this node's daemon listens, and how to connect to it."""

from __future__ import annotations

import os
import socket
from typing import Final

from cached.config.places import runtime_dirs_to_try
from cached.errors import DaemonUnreachable

#: The kernel's limit for the address of a Unix socket, in bytes.
_LONGEST_ADDRESS: Final = 107
_SHARED: Final = "/tmp"  # noqa: S108 - guarded: see _usable


class Endpoint:
    """The directory of a daemon's sockets, or the usual directories in order when none is named."""

    def __init__(self, runtime_dir: str | os.PathLike[str] | None = None) -> None:
        folders = [runtime_dir] if runtime_dir is not None else runtime_dirs_to_try(os.environ)
        #: As text, and whether anybody could have made it.
        self._folders = [(folder, _is_shared(folder)) for folder in map(_text, folders)]

    def connect(self, name: str, kind: int, timeout: float) -> socket.socket:
        """Connect to the socket called `name`; raises `DaemonUnreachable` that names every socket tried."""
        tried: dict[str, str] = {}
        for folder, shared in self._folders:
            connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
            try:
                connection.settimeout(timeout)
                if shared:
                    _check_owner(folder)
                _connect(connection, folder, name)
            except OSError as error:
                connection.close()
                tried[f"{folder}/{name}"] = error.strerror or str(error)
            else:
                return connection
        places = "; ".join(f"{path}: {reason}" for path, reason in tried.items())
        raise DaemonUnreachable(
            "no cached daemon answers on this node",
            hint=f"start it with 'cached daemon', or set CACHED_RUNTIME_DIR; tried {places}",
            tried=tried,
        )


def _text(folder: str | os.PathLike[str]) -> str:
    text = os.fspath(folder)
    return text.rstrip("/") or ("/" if text else ".")


def _is_shared(folder: str) -> bool:
    place, _, name = os.path.normpath(folder).rpartition("/") if _SHARED in folder else ("", "", "")
    return place.strip("/") == _SHARED.strip("/") and name.startswith("cached-")


def _connect(connection: socket.socket, place: str, name: str) -> None:
    address = f"{place}/{name}"
    if len(os.fsencode(address)) <= _LONGEST_ADDRESS:
        connection.connect(address)
        return
    folder = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{name}")
    finally:
        os.close(folder)


def _check_owner(folder: str) -> None:
    """Refuse a directory that anybody could have made in /tmp: that daemon would be given private files."""
    owner = os.lstat(folder).st_uid
    if owner not in (0, os.geteuid()):
        raise PermissionError(1, f"the directory belongs to uid {owner}")

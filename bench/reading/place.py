"""A node with one set on it, and a plain directory with the same files beside it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.daemons.node import Node

from bench.objects import place

#: Small files of the set, and their bytes.
FILES: Final = 1000
SMALL: Final = 4096
_DIRECTORIES: Final = 10

SMALL_FILES: Final = [f"d{number % _DIRECTORIES}/f{number}" for number in range(FILES)]


@dataclass(frozen=True)
class Place:
    """Where to read: `nr/NAME` through the node, `plain / NAME` without."""

    node: Node
    plain: Path


@contextlib.contextmanager
def serving(files: Mapping[str, int]) -> Iterator[Place]:
    """Give a node that has the set `nr` with these files, of so many random bytes."""
    with place.cluster() as made:
        node = made.start("n0", key=False, store_capacity="4GB")
        plain = made.tree("plain", {name: os.urandom(size) for name, size in files.items()})
        with node.client() as client:
            client.create("nr", plain)
        os.sync()
        yield Place(node, plain)


def small_files() -> dict[str, int]:
    """Return the small files with their sizes."""
    return dict.fromkeys(SMALL_FILES, SMALL)


class Raw:
    """A program that writes its packets itself: what the daemon and the kernel take, without a client library."""

    def __init__(self, runtime: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(str(runtime / "data.sock"))

    def open(self, name: str) -> int:
        """Return a descriptor of a file; the set stays pinned until `close`."""
        self._socket.send(b'{"v":1,"op":"open","name":"nr/%s"}' % name.encode())
        said, rights, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not rights:
            raise AssertionError(said.decode())
        return int.from_bytes(rights[0][2], "little")

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def processor_seconds(pid: int | str) -> float:
    """Return what a process's first thread has had of the processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def ray_or_reason() -> tuple[Any, str]:
    """Return Ray's module if it can be imported, else why it cannot run."""
    try:
        import ray
    except ImportError as error:
        return None, f"cannot run: {error}"
    return ray, ray.__version__

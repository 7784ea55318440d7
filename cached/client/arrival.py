"""How an input arrives: copied beside its final name in the cheapest way, then renamed onto it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Final

from cached import wire
from cached.client.channel import Watcher
from cached.client.export import copy_bytes
from cached.errors import NotFound, UsageError

if TYPE_CHECKING:
    from cached.client.client import Client

#: How the names of unfinished files begin.
PARTIAL: Final = ".cached-partial."
_BUFFER: Final = 1 << 20


def bring_object(
    client: Client, address: str, to: str, *, keep: bool, scope: str | None, watcher: Watcher
) -> tuple[int, str]:
    """Copy an object to a file, which is replaced; return its bytes and the tier that they came from."""
    with client.open_object(
        address, keep="auto" if keep else "none", scope=scope, progress=watcher
    ) as source:
        size = source.object.size
        with replaced(to) as goal:
            copied = _read_over(source, goal, size) if source.through else _copied(source, goal, size)
            for done in copied:
                watcher(wire.Progress(bytes_present=done, bytes_wanted=size))
        return size, str(source.tier)


def bring_set(client: Client, ref: str, to: str, *, watcher: Watcher) -> tuple[int, int, str]:
    """Copy a set, or what of it is named, to a directory or file; files that are there are replaced.

    Returns files, bytes, and whether they were `here` or came from a `peer`.
    """
    place = "here" if is_here(client, ref) else "peer"
    last = ref.rstrip("/").rpartition("/")
    beside = _beside(to.rstrip("/") or "/")
    os.makedirs(os.path.dirname(beside) or ".", exist_ok=True)
    try:
        client.export(ref, beside, progress=watcher)
        files, size = _extent(beside)
        if not os.path.isdir(beside) and (to.endswith("/") or os.path.isdir(to)):
            to = os.path.join(to, last[2])
            os.makedirs(os.path.dirname(to), exist_ok=True)
        _move_over(beside, to.rstrip("/") or "/")
    finally:
        _remove(beside)
    return files, size, place


def is_here(client: Client, ref: str) -> bool:
    """Say whether this node has a set already; False too when there is no such set."""
    try:
        client.open_dir(ref, fetch=False).close()
    except NotFound:
        return False
    except UsageError:  # a file of it was named
        return True
    return True


@contextlib.contextmanager
def replaced(to: str) -> Iterator[int]:
    """Give a descriptor of what becomes the file `to` when all went well, and else leaves nothing."""
    if os.path.isdir(to):
        raise UsageError(f"{to} is a directory", hint="end it with / to put the file into it")
    os.makedirs(os.path.dirname(to) or ".", exist_ok=True)
    partial = _beside(to)
    goal = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        yield goal
        os.rename(partial, to)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    finally:
        os.close(goal)


def _beside(to: str) -> str:
    return os.path.join(os.path.dirname(to), PARTIAL + secrets.token_hex(8))


def _copied(source: IO[bytes], goal: int, size: int) -> Iterator[int]:
    return copy_bytes(source.fileno(), goal, size)


def _read_over(source: IO[bytes], goal: int, size: int) -> Iterator[int]:
    done = 0
    while data := source.read(_BUFFER):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(goal, rest) :]
        done += len(data)
        yield done
    if done != size:
        raise OSError(errno.EIO, f"the object ended after {done} of {size} bytes")


def _extent(path: str) -> tuple[int, int]:
    """Return files and bytes at and below a path."""
    if os.path.islink(path) or not os.path.isdir(path):
        return 1, os.lstat(path).st_size
    files = size = 0
    with os.scandir(path) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                inner = _extent(entry.path)
                files, size = files + inner[0], size + inner[1]
            elif entry.is_file(follow_symlinks=False):
                files, size = files + 1, size + entry.stat(follow_symlinks=False).st_size
    return files, size


def _move_over(source: str, to: str) -> None:
    """Give what was copied its final names; directories that are there are filled, files replaced."""
    is_folder = os.path.isdir(source) and not os.path.islink(source)
    if is_folder and os.path.isdir(to):
        for name in sorted(os.listdir(source)):
            _move_over(os.path.join(source, name), os.path.join(to, name))
        return
    if is_folder and os.path.lexists(to):
        raise UsageError(f"{to} exists and is no directory")
    if not is_folder and os.path.isdir(to) and not os.path.islink(to):
        raise UsageError(f"{to} is a directory, where a file is to be")
    os.rename(source, to)


def _remove(path: str) -> None:
    if os.path.lexists(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(path)

"""How an input arrives: copied beside its final name in the cheapest way, then renamed onto it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cached import wire
from cached.client import landing
from cached.client.channel import Watcher
from cached.client.export import copy_bytes, read_over
from cached.errors import NotFound, UsageError

if TYPE_CHECKING:
    from cached.client.client import Client

#: How the names of unfinished files begin.
PARTIAL: Final = ".cached-partial."


def bring_object(
    client: Client, address: str, to: str, *, within: str, keep: bool, scope: str | None, watcher: Watcher
) -> tuple[int, str]:
    """Copy an object to a file, which is replaced; return its bytes and the tier that they came from.

    `within` is the directory that the user named: no link below it is followed.
    """
    with client.open_object(
        address, keep="auto" if keep else "none", scope=scope, progress=watcher
    ) as source:
        size = source.object.size
        with replaced(to, within) as goal:
            through = source.through
            copied = read_over(source, goal, size) if through else copy_bytes(source.fileno(), goal, size)
            for done in copied:
                watcher(wire.Progress(bytes_present=done, bytes_wanted=size))
        return size, str(source.tier)


def bring_set(client: Client, ref: str, to: str, *, watcher: Watcher) -> tuple[int, int, str]:
    """Copy a set, or what of it is named, to a directory or file; files that are there are replaced.

    Returns files, bytes, and whether they were `here` or came from a `peer`.
    """
    place = "here" if is_here(client, ref) else "peer"
    last = ref.rstrip("/").rpartition("/")
    into = os.path.isdir(to)
    beside = _beside(os.path.join(to, "") if into else to.rstrip("/") or "/")
    os.makedirs(os.path.dirname(beside) or ".", exist_ok=True)
    try:
        client.export(ref, beside, progress=watcher)
        files, size = _extent(beside)
        is_folder = os.path.isdir(beside)
        if into and is_folder:
            landing.fill(beside, to)
        else:
            _move(beside, os.path.join(to, last[2]) if not is_folder and (into or to.endswith("/")) else to)
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
def replaced(to: str, within: str) -> Iterator[int]:
    """Give a descriptor of what becomes the file `to` when all went well, and else leaves nothing.

    Directories are made, and links below `within` not followed. Raises `UsageError`, `OSError`.
    """
    with landing.parent_of(to, within) as (folder, name):
        if landing.kind_of(folder, name) == stat.S_IFDIR:
            raise UsageError(f"{to} is a directory", hint="end it with / to put the file into it")
        partial = _beside("")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        goal = os.open(partial, flags, 0o644, dir_fd=folder)
        try:
            yield goal
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=folder)
            raise
        finally:
            os.close(goal)


def _beside(to: str) -> str:
    return os.path.join(os.path.dirname(to), PARTIAL + secrets.token_hex(8))


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


def _move(source: str, to: str) -> None:
    """Give what was copied the name that the user gave it."""
    to = to.rstrip("/") or "/"
    with (
        landing.parent_of(source, os.path.dirname(source)) as (old, name),
        landing.parent_of(to, os.path.dirname(to)) as (new, new_name),
    ):
        landing.place(old, name, new, new_name, to)


def _remove(path: str) -> None:
    if os.path.lexists(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(path)

"""Where inputs land: below the directory that the user named, and never through a link that lies inside it.

What brings files may bring links too, and several arrive at a time: so each step downwards is taken with a descriptor
of the directory above it (`openat(2)` with `O_NOFOLLOW`). The named directory itself may be a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from cached.errors import UsageError

_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def parent_of(to: str, within: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that holds `to`, made if it is missing, and the last name.

    `within` is the part of `to` that the user named. Raises `UsageError` for a link, or `..`, in the rest; `OSError`.
    """
    steps = [part for part in to[len(within) :].split("/") if part not in ("", ".")]
    if not steps:
        raise UsageError(f"{to} is a directory", hint="name the file in it")
    top = within or ("/" if to.startswith("/") else ".")
    os.makedirs(top, exist_ok=True)
    here = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps[:-1]:
            below = _below(here, step, to)
            os.close(here)
            here = below
        yield here, steps[-1]
    finally:
        os.close(here)


def _below(here: int, step: str, to: str) -> int:
    if step == "..":
        raise UsageError(f"{to} leads out of its directory")
    with contextlib.suppress(FileExistsError):
        os.mkdir(step, dir_fd=here)
    try:
        return os.open(step, _STEP, dir_fd=here)
    except OSError as error:
        if kind_of(here, step) == stat.S_IFLNK:
            raise _through_link(to, step) from None
        if error.errno == errno.ENOTDIR:
            raise UsageError(f"{to}: {step} exists and is no directory") from None
        raise


def _through_link(to: str, step: str) -> UsageError:
    return UsageError(
        f"{to}: {step} is a link, and what arrives goes through none", hint="name what it leads to"
    )


def kind_of(folder: int, name: str) -> int:
    """Return what kind of file a name is, as `stat.S_IFMT` does; 0 for none. Links are not followed."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def fill(source: str, to: str) -> None:
    """Give everything in the directory `source` its name in the directory `to`, which the user named.

    Directories that are there are filled, files and links replaced. Raises `UsageError` where one would take the
    other's place, and for a link where a directory is to be.
    """
    with _folder(source, _READ) as old, _folder(to, _READ) as new:
        _fill(old, new, to)


def _fill(source: int, goal: int, shown: str) -> None:
    for name in sorted(os.listdir(source)):
        path = os.path.join(shown, name)
        if kind_of(source, name) == kind_of(goal, name) == stat.S_IFDIR:
            flags = _READ | os.O_NOFOLLOW
            with _folder(name, flags, source) as inner, _folder(name, flags, goal) as outer:
                _fill(inner, outer, path)
        else:
            place(source, name, goal, name, path)


def place(source: int, name: str, goal: int, new_name: str, shown: str) -> None:
    """Rename a file or directory from one directory into another, onto a file or link, or where nothing is."""
    comes, there = kind_of(source, name), kind_of(goal, new_name)
    if comes == stat.S_IFDIR and there == stat.S_IFLNK:
        raise _through_link(shown, new_name)
    if comes == stat.S_IFDIR and there:
        raise UsageError(f"{shown} exists and is no directory")
    if there == stat.S_IFDIR:
        raise UsageError(f"{shown} is a directory, where a file is to be")
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=goal)


@contextlib.contextmanager
def _folder(name: str, flags: int, above: int | None = None) -> Iterator[int]:
    found = os.open(name, flags, dir_fd=above)
    try:
        yield found
    finally:
        os.close(found)

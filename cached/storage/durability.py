"""Durability of a staged tree: fsync file by file while there are few, one `syncfs` when there are many."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cached.sets.manifest import Manifest
from cached.storage import files, tree
from cached.storage.beneath import start_writing, sync_filesystem

#: Up to this many entries are synced one by one; beyond, `syncfs` also writes what others left unsynced.
FEW = 128
_THREADS = 4
#: Up to this many files are synced by the thread that asks: to start others takes longer.
ALONE = 8


def is_many(manifest: Manifest) -> bool:
    """Tell whether a tree has so many entries that they are synced together."""
    return len(manifest.entries) > FEW


def sync_staged(home: Path, data_fd: int, manifest: Manifest) -> None:
    """Bring a tree and the files beside it to the device: files first, then directories."""
    if is_many(manifest):
        sync_filesystem(data_fd)
        return
    beside = [path for folder in (home, home / "sets") for path in _files_in(folder)]
    opening: list[Callable[[], int]] = [
        partial(tree.open_file, data_fd, entry.path) for entry in manifest.files()
    ]
    opening += [partial(os.open, path, os.O_RDONLY | os.O_CLOEXEC) for path in beside]
    if len(opening) <= ALONE:
        _sync_together(opening)
    else:
        with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="fsync") as pool:
            for done in [pool.submit(_sync_opened, one) for one in opening]:
                done.result()
    for entry in reversed(manifest.entries):
        if entry.kind == "dir":
            _sync_fd(tree.open_directory(data_fd, entry.path))
    for path in (home / "data", home / "sets", home):
        files.sync(path)


def _files_in(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(entry.path for entry in found if entry.is_file())


def _sync_together(opening: list[Callable[[], int]]) -> None:
    """Have the kernel begin to write all files, then sync each: the first sync does most of what the others need."""
    fds: list[int] = []
    try:
        for one in opening:
            fds.append(one())
            with contextlib.suppress(OSError):  # where it cannot, the sync does it all
                start_writing(fds[-1])
        for fd in fds:
            os.fsync(fd)
    finally:
        for fd in fds:
            os.close(fd)


def write_ahead(data_fd: int, manifest: Manifest) -> None:
    """Begin to write to the device what a tree has so far, so that `sync_staged` will find little left to do."""
    if is_many(manifest):
        return  # they are synced together: `writeback` does that early
    for entry in manifest.files():
        with contextlib.suppress(FileNotFoundError):
            fd = tree.open_file(data_fd, entry.path)
            try:
                start_writing(fd)
            finally:
                os.close(fd)


def _sync_opened(opening: Callable[[], int]) -> None:
    _sync_fd(opening())


def _sync_fd(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Durability of a staged tree: its files and directories synced while they are few, one `syncfs` when they are many."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cached.sets.manifest import Manifest
from cached.storage import tree
from cached.storage.beneath import start_writing, sync_filesystem
from cached.storage.together import MOST, sync_all

#: Up to this many entries are synced themselves; beyond, `syncfs` also writes what others left unsynced.
FEW = 128


def is_many(manifest: Manifest) -> bool:
    """Tell whether a tree has so many entries that the file system is synced as a whole."""
    return len(manifest.entries) > FEW


def sync_staged(home: Path, data_fd: int, manifest: Manifest) -> None:
    """Bring a tree and the files beside it to the device; what is there counts only once it is renamed."""
    if is_many(manifest):
        sync_filesystem(data_fd)
        return
    beside = [path for folder in (home, home / "sets") for path in _files_in(folder)]
    folders = [entry.path for entry in manifest.entries if entry.kind == "dir"]
    opening: list[Callable[[], int]] = [
        *(partial(tree.open_file, data_fd, entry.path) for entry in manifest.files()),
        *(partial(_open, path) for path in beside),
        *(partial(tree.open_directory, data_fd, path) for path in folders),
        *(partial(_open, path) for path in (home / "data", home / "sets", home)),
    ]
    for first in range(0, len(opening), MOST):
        _sync_together(opening[first : first + MOST])


def sync_directories(*paths: Path) -> None:
    """Bring directories to the device: what was renamed into them, or out of them."""
    _sync_together([partial(_open, path) for path in paths])


def _open(path: str | Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _files_in(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(entry.path for entry in found if entry.is_file())


def _sync_together(opening: list[Callable[[], int]]) -> None:
    """Have the kernel begin to write all of them, then sync them."""
    descriptors: list[int] = []
    try:
        for one in opening:
            descriptors.append(one())
            with contextlib.suppress(OSError):  # directories, and where it cannot: the sync does it all
                start_writing(descriptors[-1])
        sync_all(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def write_ahead(data_fd: int, manifest: Manifest) -> None:
    """Begin to write to the device what a tree has so far, so that `sync_staged` will find little left to do."""
    if is_many(manifest):
        return  # the file system is synced as a whole: `writeback` does that early
    for entry in manifest.files():
        with contextlib.suppress(FileNotFoundError):
            fd = tree.open_file(data_fd, entry.path)
            try:
                start_writing(fd)
            finally:
                os.close(fd)

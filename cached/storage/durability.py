"""Durability of a staged tree: fsync file by file while there are few, one `syncfs` when there are many."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cached.sets.manifest import Manifest
from cached.storage import files, tree
from cached.storage.beneath import start_writing, sync_filesystem

#: Up to this many entries are synced one by one; beyond, `syncfs` also writes what others left unsynced.
FEW = 128
_THREADS = 4


def is_many(manifest: Manifest) -> bool:
    """Tell whether a tree has so many entries that they are synced together."""
    return len(manifest.entries) > FEW


def sync_staged(home: Path, data_fd: int, manifest: Manifest) -> None:
    """Bring a tree and the files beside it to the device: files first, then directories."""
    if is_many(manifest):
        sync_filesystem(data_fd)
        return
    work = [_later(data_fd, entry.path) for entry in manifest.files()]
    work += [lambda path=path: files.sync(path) for path in sorted(home.iterdir()) if path.is_file()]  # type: ignore[misc]
    with ThreadPoolExecutor(max_workers=min(_THREADS, len(work) or 1), thread_name_prefix="fsync") as pool:
        for done in [pool.submit(step) for step in work]:
            done.result()
    for entry in reversed(manifest.entries):
        if entry.kind == "dir":
            _sync_fd(tree.open_directory(data_fd, entry.path))
    for path in (home / "data", home / "sets", home):
        files.sync(path)


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


def _later(data_fd: int, path: str) -> Callable[[], None]:
    return lambda: _sync_fd(tree.open_file(data_fd, path))


def _sync_fd(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

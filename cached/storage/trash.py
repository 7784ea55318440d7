"""The trash: directories leave their place by one rename and are unlinked at leisure."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

from cached import faults
from cached.storage import files, tree
from cached.storage.beneath import parent_of

TRASH_UNLINKED = faults.declare("trash.unlinked")
TRASH_EMPTIED = faults.declare("trash.emptied")

_BLOCK = 512


def move(path: Path, trash: Path, label: str) -> Path | None:
    """Rename a directory into the trash, durably; return its new path, or None when it is not there."""
    for number in itertools.count():
        goal = trash / (f"{label}.{number}" if number else label)
        if goal.exists():
            continue
        try:
            if files.rename_new(path, goal):
                break
        except FileNotFoundError:
            return None
    files.sync(trash)
    files.sync(path.parent)
    return goal


def empty(trashed: Path) -> int:
    """Delete a trashed directory, read-only parts included; return the bytes that the device gets back."""
    if not trashed.exists():
        return 0
    with files.translated(trashed):
        trashed.chmod(0o700)
        root = os.open(trashed, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            blocks = clear(root)
        finally:
            os.close(root)
        trashed.rmdir()
        files.sync(trashed.parent)
    faults.point(TRASH_EMPTIED)
    return blocks * _BLOCK


def remove(parent: int, name: str) -> None:
    """Delete one file, link or whole directory of the directory `parent`, which is writable."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    os.chmod(name, 0o700, dir_fd=parent)
    below = tree.open_directory(parent, name)
    try:
        clear(below)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=parent)


def clear(root: int) -> int:
    """Delete everything below a directory; return the 512-byte blocks of files that had no other link."""
    blocks = 0
    directories = []
    for path, fd, entries in tree.walk(root):
        os.fchmod(fd, 0o700)
        directories.append(path)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.name, 0o700, dir_fd=fd)
                continue
            facts = entry.stat(follow_symlinks=False)
            os.unlink(entry.name, dir_fd=fd)
            blocks += facts.st_blocks if facts.st_nlink == 1 else 0
        faults.point(TRASH_UNLINKED)
    for path in reversed(directories):
        if path:
            with parent_of(root, path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
    return blocks

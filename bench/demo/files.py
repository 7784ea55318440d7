"""Real files to play with: copies of what every Linux machine with Python has, at least so many bytes of them."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Larger files are left out: a demonstration of many files, not of one.
_LARGEST: Final = 64_000_000
#: More files than this make the preparation long without showing more.
_MOST_FILES: Final = 4_000
_SMALL: Final = 100_000


def trees() -> list[Path]:
    """Return the directories that files are taken from, the most interesting first."""
    found = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib")]
    found += [Path("/usr/lib/python3"), Path("/usr/share"), Path("/usr/lib"), Path("/usr/bin")]
    return [path for path in dict.fromkeys(path.resolve() for path in found) if path.is_dir()]


def collect(target: Path, wanted: int) -> tuple[int, int]:
    """Copy files into `target` until they are `wanted` bytes or more; return how many files and bytes there are.

    Links, special and unreadable files are left out. A machine with too few gives the same trees again, under
    another name. Raises `SystemExit` when there is nothing to copy.
    """
    count, total, turn = 0, 0, 0
    while total < wanted:
        turn, before = turn + 1, total
        for tree in trees():
            root = target / f"{turn}-{tree.name}" if turn > 1 else target / tree.name
            share = min(wanted, total + wanted // 2)
            for path, size in _regular(tree):
                if total >= share:
                    break
                if (count < _MOST_FILES or size >= _SMALL) and _copy(path, root / path.relative_to(tree)):
                    count, total = count + 1, total + size
        if total == before:
            raise SystemExit("make demo: no readable files were found on this machine")
    return count, total


def _regular(tree: Path) -> Iterator[tuple[Path, int]]:
    """Yield the regular files below a directory, in order, and their sizes; no links and no compiled modules."""
    for folder, below, names in os.walk(tree, onerror=None):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            try:
                facts = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST and _is_text(name):
                yield path, facts.st_size


def _is_text(name: str) -> bool:
    """Tell whether a name can be shown and stored: valid UTF-8 without control characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name.isprintable()


def _copy(source: Path, target: Path) -> bool:
    """Copy one file; return False when it cannot be read."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)
        target.chmod(target.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR)
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True

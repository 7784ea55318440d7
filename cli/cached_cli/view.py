"""Private copies of sets in a temporary directory, for programs that canonicalise paths."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cached_cli.links import VIEW_PREFIX


@contextlib.contextmanager
def temporary_tree() -> Iterator[Path]:
    """Yield a new private directory under TMPDIR, and remove all that is in it afterwards."""
    root = Path(tempfile.mkdtemp(prefix=VIEW_PREFIX))
    try:
        yield root
    finally:
        remove_tree(root)


def remove_tree(root: Path) -> None:
    """Remove a tree, also where its directories were made read-only; what cannot be removed stays."""

    def unlock(retry: Callable[..., Any], path: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(Path(path).parent, 0o700)
            if retry in (os.scandir, os.open, os.listdir):
                os.chmod(path, 0o700)
                remove_tree(Path(path))
            else:
                retry(path)

    shutil.rmtree(root, onerror=unlock)

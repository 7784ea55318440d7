"""What the filesystems have in common: how something is copied out of them, and what is said when nothing is there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fsspec import AbstractFileSystem

from cached.client import ObjectFile
from cached.client.export import copy_bytes, read_over
from cached.errors import Forbidden, NotFound

Result = TypeVar("Result")

_PIECE: Final = 4 << 20


class CopyingFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A filesystem whose files have descriptors, or are objects."""

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether there is something of that name, or below it, for this user."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def get_file(self, rpath: str, lpath: Any, callback: Any = None, outfile: Any = None, **_: Any) -> None:
        """Copy a file out, over one of that name: blocks are shared where the file system can, else the kernel copies.

        What is a directory becomes one.
        """
        if outfile is None and self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
            return
        with self._open(rpath) as source:
            is_object = isinstance(source, ObjectFile)
            size = source.object.size if is_object else os.fstat(source.fileno()).st_size
            if callback is not None:
                callback.set_size(size)
            if outfile is not None:
                shutil.copyfileobj(source, outfile, _PIECE)
                return
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            with open(lpath, "wb") as file:
                through, goal = is_object and source.through, file.fileno()
                copied = read_over(source, goal, size) if through else copy_bytes(source.fileno(), goal, size)
                for done in copied:
                    if callback is not None:
                        callback.absolute_update(done)


def told(ask: Callable[[], Result], path: str) -> Result:
    """Say in Python's words what file users know how to handle; other refusals keep their own."""
    try:
        return ask()
    except NotFound as error:
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error
    except Forbidden as error:
        raise PermissionError(errno.EACCES, str(error), path) from error

"""Many small files at a time: made whole, with as few system calls and steps for each as there can be.

Making a file costs the kernel several times what the bytes and their hash cost. It does so without the interpreter's
lock, so that two threads make almost twice as many files as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Final, Protocol, TypeVar

from cached.storage import files
from cached.storage.tree import Parents

#: Fewer than this many files are not worth a second thread.
FEW: Final = 64
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Item = TypeVar("Item")


class Sized(Protocol):
    """Something that has so many bytes."""

    @property
    def size(self) -> int:
        """Bytes."""


Part = TypeVar("Part", bound=Sized)


def write_new(
    parents: Parents,
    path: str,
    data: bytes | memoryview,
    mode: int,
    *,
    mtime_ns: int | None = None,
    allocate: bool = False,
    replace: bool = False,
) -> None:
    """Make a file that holds `data`, with its final mode. OSError as the system says; EEXIST unless `replace`.

    `allocate` gives it its blocks before the bytes, for the memory tier. `replace` takes away what is there: it may
    be read-only, or belong to others as well.
    """
    parent, name = parents.of(path)
    try:
        fd = os.open(name, _NEW, mode, dir_fd=parent)
    except FileExistsError:
        if not replace:
            raise
        os.unlink(name, dir_fd=parent)
        fd = os.open(name, _NEW, mode, dir_fd=parent)
    try:
        if allocate:
            files.allocate(fd, len(data))
        written = os.write(fd, data)
        if written < len(data):
            files.write_all(fd, memoryview(data)[written:], written)
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
    finally:
        os.close(fd)


def cut(data: memoryview, items: Sequence[Part]) -> list[tuple[Part, memoryview]]:
    """Return each item with its bytes, which lie in `data` one after the other, in this order."""
    ends = accumulate(item.size for item in items)
    return [(item, data[end - item.size : end]) for item, end in zip(items, ends, strict=True)]


def shared_out(work: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
    """Have `work` done on all items, by two threads when there are many; each gets neighbours.

    Returns, or raises what `work` raises, once both are done.
    """
    if len(items) < 2 * FEW:
        work(items)
        return
    middle = len(items) // 2
    with ThreadPoolExecutor(1, thread_name_prefix="small") as other:
        rest = other.submit(work, items[middle:])
        work(items[:middle])
        rest.result()

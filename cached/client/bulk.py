"""Large reads of a local copy by several threads: one alone is slower than memory is.

The kernel copies a page at a time, with a few GB/s a thread, while nobody waits for a disk: copies of large objects
that are read in one go are mostly in memory.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from cached.client.opened import SetFile

#: Bytes for each thread, at least: below that starting one costs more than it saves.
SHARE: Final = 8 << 20
#: Threads, at most; memory is no faster for more.
MOST: Final = 4


class CopyFile(SetFile):
    """The raw file of a copy; what is read into a large buffer comes by several threads."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer from the position on; return how many bytes came, fewer only at the end."""
        with memoryview(buffer) as whole:
            threads = min(MOST, whole.nbytes // SHARE, len(os.sched_getaffinity(0)))
            if threads < 2:
                return super().readinto(whole)
            with whole.cast("B") as view:
                start = self.tell()
                size = max(0, min(view.nbytes, os.fstat(self.fileno()).st_size - start))
                done = read_into(self.fileno(), view[:size], start, threads)
            self.seek(start + done)
            return done


def read_into(descriptor: int, view: memoryview, start: int, threads: int) -> int:
    """Fill a buffer with a file's bytes from `start` on; return how many came without a gap. Raises `OSError`."""
    step = max(1, -(-len(view) // threads))
    bounds = [(at, min(at + step, len(view))) for at in range(0, len(view), step)]
    came = [0] * len(bounds)
    failed: list[OSError] = []

    def read(number: int) -> None:
        at, stop = bounds[number]
        try:
            while at < stop and (count := os.preadv(descriptor, [view[at:stop]], start + at)):
                at += count
                came[number] += count
        except OSError as error:
            failed.append(error)

    others = [threading.Thread(target=read, args=(number,)) for number in range(1, len(bounds))]
    for other in others:
        other.start()
    if bounds:
        read(0)
    for other in others:
        other.join()
    if failed:
        raise failed[0]
    return _unbroken(bounds, came)


def _unbroken(bounds: list[tuple[int, int]], came: list[int]) -> int:
    total = 0
    for (at, stop), count in zip(bounds, came, strict=True):
        total += count
        if count < stop - at:
            break
    return total

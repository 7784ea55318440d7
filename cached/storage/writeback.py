"""Writing back early: what is written goes to the device while more is coming, so that little is left for the end.

A help and no promise: whoever publishes still syncs everything. An error is reported by the kernel once, to whoever
syncs next, so that one met here is kept and raised by `end`.
"""

from __future__ import annotations

import os
import threading
from typing import Final, Self

from cached.storage.beneath import sync_filesystem

#: Bytes after which the next round begins, unless one is still running.
EVERY: Final = 64 << 20
#: What the names and facts of a file count beside its bytes.
ENTRY: Final = 4096


class Writeback:
    """Syncs the file system of a directory every so many bytes, in a thread; any thread may say that it has written."""

    def __init__(self, dirfd: int) -> None:
        """`dirfd` stays the caller's."""
        self._fd = os.dup(dirfd)
        self._lock = threading.Lock()
        self._written = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wrote(self, size: int, files: int = 0) -> None:
        """Count bytes, and files, that were written just now."""
        with self._lock:
            self._written += size + files * ENTRY
            if self._written >= EVERY:
                self._begin()

    def hurry(self) -> None:
        """Begin a round with what there is: the last bytes are written."""
        with self._lock:
            if self._written:
                self._begin()

    def end(self) -> None:
        """Wait for a round that runs; raises the `OSError` that one met. What is written later counts anew."""
        thread = self._thread
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Give the descriptor back, once nothing runs any more; may be repeated."""
        thread = self._thread
        if thread is not None:
            thread.join()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _begin(self) -> None:
        if self._fd < 0 or (self._thread is not None and self._thread.is_alive()):
            return
        self._written = 0
        self._thread = threading.Thread(target=self._sync, name="writeback", daemon=True)
        self._thread.start()

    def _sync(self) -> None:
        try:
            sync_filesystem(self._fd)
        except OSError as error:
            self._error = error

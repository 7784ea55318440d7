"""An object that the node could not keep, read through it: ranges over HTTP, further ahead the longer it is read on."""

from __future__ import annotations

import http.client
import io
import os
from typing import Any, Final

from cached import wire
from cached.client.rest import Part, Rest, quoted
from cached.client.token import Tokens
from cached.errors import DaemonUnreachable

#: Bytes that are asked for at first, and at most; a reader who goes on is given twice as many each time.
FIRST: Final = 1 << 20
MOST: Final = 64 << 20
#: Bytes that a reader who jumps a little ahead reads over rather than ask anew.
_SKIP: Final = 256 << 10
#: Times that a broken answer is asked for again before a byte has come.
_RETRIES: Final = 3


class ThroughFile(io.RawIOBase):
    """A seekable, read-only file without a descriptor; one generation, whatever becomes of the object meanwhile."""

    def __init__(self, rest: Rest, view: wire.ObjectView, tokens: Tokens) -> None:
        self.name = view.address or f"gs://{view.bucket}/{view.name}#{view.generation}"
        self._rest = rest
        self._view = view
        self._tokens = tokens
        self._at = 0
        self._window = FIRST
        self._part: Part | None = None
        #: Where the answer under way has got to, where it ends, and whose it is.
        self._part_at = -1
        self._part_end = -1
        self._pid = os.getpid()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; nothing is read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._view.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read some bytes. Raises `OriginChanged` when the generation is gone, and what the daemon says."""
        into = memoryview(buffer).cast("B")[: max(0, self._view.size - self._at)]
        for left in range(_RETRIES, -1, -1):
            if not into:
                break
            try:
                self._reach()
                assert self._part is not None
                count = self._part.readinto(into)
                if count:
                    self._at = self._part_at = self._part_at + count
                    return count
                self._drop()
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if not left:
                    raise DaemonUnreachable(
                        f"the daemon went away while {self.name} was read", hint="ask again"
                    ) from error
        return 0

    def readall(self) -> bytes:
        """Read the rest."""
        data = bytearray(max(0, self._view.size - self._at))
        view, done = memoryview(data), 0
        while count := self.readinto(view[done:]):
            done += count
        return bytes(view[:done])

    def close(self) -> None:
        """End what is under way."""
        if not self.closed:
            self._drop()
        super().close()

    def _reach(self) -> None:
        """Have an answer under way that goes on at the position."""
        if self._pid != os.getpid():  # the answer is the parent's
            self._pid, self._part = os.getpid(), None
        if self._part is not None and self._part_at == self._part_end:
            self._drop()
        if self._part is not None and not self._skipped(self._part):
            self._drop()
        if self._part is None:
            self._window = min(MOST, 2 * self._window) if self._at == self._part_at else FIRST
            self._part_at, self._part_end = self._at, min(self._view.size, self._at + self._window)
            view = self._view
            self._part = self._rest.part(
                f"objects/{quoted(view.bucket)}/{quoted(view.name)}",
                self._at,
                self._part_end,
                query={"generation": str(view.generation), "keep": "none", "again": "true"},
                token=self._tokens.get(),
            )

    def _skipped(self, part: Part) -> bool:
        """Read over a small gap; say whether the answer goes on at the position."""
        gap = self._at - self._part_at
        if not 0 <= gap <= min(_SKIP, self._part_end - self._part_at - 1):
            return False
        waste = memoryview(bytearray(gap))
        while waste:
            count = part.readinto(waste)
            waste = waste[count:]
            self._part_at += count
        return True

    def _drop(self) -> None:
        part, self._part = self._part, None
        if part is not None and self._pid == os.getpid():
            part.close()

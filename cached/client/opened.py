"""What `open` gives to a job: plain descriptors, whose closing gives the pin back."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cached import wire


class SetFile(io.FileIO):
    """The raw, unbuffered file; the kernel's own, so everything that takes a descriptor takes it."""

    _after: Callable[[], None] | None = None

    def __init__(self, descriptor: int, closed: Callable[[], None]) -> None:
        super().__init__(descriptor, "rb")
        #: A path to the file for others in this process, while it is open.
        self.name = f"/proc/self/fd/{descriptor}"
        self._after = closed

    def close(self) -> None:
        """Close the descriptor, and give the pin back."""
        after, self._after = self._after, None
        try:
            super().close()
        finally:
            if after is not None:
                after()


class Opened:
    """A read-only directory descriptor of a set: a capability for everything below it. Close it, or use
    `with`.
    """

    def __init__(self, reply: wire.OpenReply, descriptor: int, closed: Callable[[], None]) -> None:
        self._after: Callable[[], None] | None = closed
        self._facts = reply
        #: Read-only directory descriptor, close-on-exec; -1 once closed.
        self.fd = descriptor

    @property
    def set(self) -> wire.SetHead:
        """Id, name, owner and content of the set."""
        return self._facts.set

    @property
    def set_id(self) -> str:
        """Id of the set."""
        return self._facts.set.id

    @property
    def path(self) -> str:
        """A path to the directory for this process and its children of the same user, while this process
        lives.
        """
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def close(self) -> None:
        """Close the descriptor and give the pin back; files opened through it stay open."""
        after, self._after = self._after, None
        if after is not None:
            descriptor, self.fd = self.fd, -1
            try:
                os.close(descriptor)
            finally:
                after()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

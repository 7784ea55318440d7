"""What is to become an object, on its way to the daemon: a file without a name, or the user's own."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Final, Self

from cached import wire
from cached.errors import UsageError

#: A path, bytes, or an open file.
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

_PIECE: Final = 4 << 20
#: Up to so many bytes are passed in memory, more in a file below TMPDIR.
_IN_MEMORY: Final = 64 << 20


class ObjectWriter(io.BufferedWriter):
    """Takes what is written and makes an object of it when it is closed.

    Nothing is stored before, nor when the `with` around it ends with an exception, nor when it is forgotten. After
    `close`, `object` and `generation` say what Cloud Storage has.
    """

    def __init__(self, put: Callable[[int], wire.ObjectView]) -> None:
        super().__init__(_file(), _PIECE)
        self._put: Callable[[int], wire.ObjectView] | None = put
        #: What Cloud Storage has, once it has it.
        self.object: wire.ObjectView | None = None

    @property
    def generation(self) -> int | None:
        """The generation that was written; None before `close`."""
        return None if self.object is None else self.object.generation

    def close(self) -> None:
        """Store the object. Raises what `Client.put` raises; then nothing more can be written."""
        put, self._put = self._put, None
        try:
            if put is not None:
                self.flush()
                self.object = put(self.fileno())
        finally:
            super().close()

    def discard(self) -> None:
        """Close without storing anything."""
        self._put = None
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if getattr(self, "_put", None) is not None:
            self.discard()


@contextmanager
def descriptor_of(source: Source) -> Iterator[int]:
    """Give a descriptor of a regular file or of memory with the bytes of `source`, from its start.

    An open file is taken from its position to its end, and ends there. Raises `UsageError` and `OSError`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        with _memory(source) as spooled:
            yield spooled.fileno()
    elif isinstance(source, (str, os.PathLike)):
        with open(source, "rb", buffering=0) as file, _as_file(file) as found:
            yield found
    elif hasattr(source, "read"):
        with _as_file(source) as found:
            yield found
    else:
        raise UsageError(f"{type(source).__name__} is neither a path nor bytes nor an open file")


@contextmanager
def _as_file(file: Any) -> Iterator[int]:
    own = _whole(file)
    if own >= 0:
        yield own
        file.seek(0, os.SEEK_END)
        return
    with _file() as spooled:
        while data := file.read(_PIECE):
            if isinstance(data, str):
                raise UsageError("the file gives text, not bytes", hint="open it with mode 'rb'")
            _write(spooled, data)
        yield spooled.fileno()


def _whole(file: Any) -> int:
    """Return the descriptor of a regular file that is read from its beginning; -1 for anything else."""
    if isinstance(file, io.TextIOBase):
        return -1
    try:
        descriptor = int(file.fileno())
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0 or file.tell() != 0:
            return -1
        if hasattr(file, "flush"):
            file.flush()
    except (AttributeError, OSError, TypeError, ValueError):
        return -1
    return descriptor if _is_plain(file) else -1


def _is_plain(file: Any) -> bool:
    """Tell whether what the file gives is what its descriptor has: a GzipFile has a descriptor too."""
    return isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)) and (
        isinstance(file, io.FileIO) or isinstance(file.raw, io.FileIO)
    )


def _memory(data: bytes | bytearray | memoryview) -> io.FileIO:
    spooled = unnamed_file(memoryview(data).nbytes)
    _write(spooled, data)
    return spooled


def unnamed_file(size: int) -> io.FileIO:
    """Return an empty file without a name for so many bytes: in memory when they are few, else below TMPDIR."""
    return _file(in_memory=size <= _IN_MEMORY)


def _file(*, in_memory: bool = False) -> io.FileIO:
    if in_memory:
        try:
            return io.FileIO(os.memfd_create("cached-object"), "rb+")
        except OSError:  # a system that knows no such files
            pass
    import tempfile

    made = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 - the caller closes it
    assert isinstance(made, io.FileIO)
    return made


def _write(file: io.FileIO, data: Any) -> None:
    view = memoryview(data)
    rest = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    while rest:
        rest = rest[file.write(rest) :]

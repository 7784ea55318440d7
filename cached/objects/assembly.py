"""One object being put together in a file: its parts, which of them are there, and the checksum of the whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cached.critical import to_the_end
from cached.errors import OriginChanged
from cached.objects.account import Place
from cached.objects.home import layout
from cached.objects.key import ObjectKey
from cached.origin.crc import crc32c, of_parts
from cached.storage import files

#: Bytes that are written at a time.
_PIECE: Final = 1 << 20


class Assembly:
    """A file that parts of an object are written into, in any order, each once.

    Parts that are there may be read by others while the rest is on its way. The descriptor stays the caller's.
    """

    def __init__(self, key: ObjectKey, size: int, fd: int, block: int) -> None:
        """Put `size` bytes together in the file `fd`, in parts of `block` bytes."""
        self.key = key
        self.size = size
        self.fd = fd
        #: Start and stop of each part, in bytes.
        self.parts = layout(size, block)
        self._crcs: dict[int, int] = {}
        #: Bytes by where they came from: `peer` or `origin`.
        self.sources: Counter[Place] = Counter()

    @property
    def bytes_present(self) -> int:
        """Bytes of the parts that are there."""
        return sum(self.parts[index][1] - self.parts[index][0] for index in self._crcs)

    @property
    def complete(self) -> bool:
        """Whether every part is there; whether they are right, `crc` tells."""
        return len(self._crcs) == len(self.parts)

    def has(self, index: int) -> bool:
        """Whether a part is there."""
        return index in self._crcs

    def missing(self) -> list[int]:
        """Return the parts that are not there, in order."""
        return [index for index in range(len(self.parts)) if index not in self._crcs]

    async def take(self, index: int, source: Place, chunks: AsyncIterator[bytes]) -> None:
        """Write one part as it comes; it counts once it is there to its last byte.

        Raises `OriginChanged` when there are more or fewer bytes than the part has, or whatever `chunks` raises.
        """
        start, stop = self.parts[index]
        at, crc, held, size = start, 0, [], 0
        async with contextlib.aclosing(chunks):  # type: ignore[type-var]  # what else comes is not waited for
            async for chunk in chunks:
                held.append(chunk)
                size += len(chunk)
                if size >= _PIECE:
                    crc = await to_the_end(asyncio.to_thread(self._write, held, at, stop, crc))
                    at, held, size = at + size, [], 0
        if held:
            crc = await to_the_end(asyncio.to_thread(self._write, held, at, stop, crc))
        if at + size != stop:
            raise OriginChanged(f"{self.key.address}: {at + size - start} bytes came of {stop - start}")
        self._crcs[index] = crc
        self.sources[source] += stop - start

    def crc_of(self, index: int) -> int:
        """Return the CRC-32C of one part that is there."""
        return self._crcs[index]

    def crc(self) -> int:
        """Return the CRC-32C of the whole, from those of its parts."""
        return of_parts((self._crcs[index], stop - start) for index, (start, stop) in enumerate(self.parts))

    def forget(self) -> None:
        """Take all parts for missing again: together they were not what they should be."""
        self._crcs.clear()
        self.sources.clear()

    def _write(self, chunks: list[bytes], at: int, stop: int, crc: int) -> int:
        with files.translated(Path(f"copy of {self.key.address}")):
            return self._written(chunks, at, stop, crc)

    def _written(self, chunks: list[bytes], at: int, stop: int, crc: int) -> int:
        for chunk in chunks:
            if at + len(chunk) > stop:
                raise OriginChanged(f"{self.key.address}: more bytes came than were asked for")
            view = memoryview(chunk)
            crc = crc32c(view, crc)
            while view:
                written = os.pwrite(self.fd, view, at)
                at, view = at + written, view[written:]
        return crc


def crc_of(fd: int, size: int) -> int:
    """Return the CRC-32C of the first `size` bytes of a file, -1 when it has fewer; blocks."""
    crc = at = 0
    while at < size:
        data = os.pread(fd, min(_PIECE, size - at), at)
        if not data:
            return -1
        crc, at = crc32c(data, crc), at + len(data)
    return crc

"""What a node asks of the durable store, whatever it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Protocol

from cached.addresses import Address
from cached.origin.values import OriginStats, Page, Pinned

#: Runs what blocks, and returns what that returned.
Reading = Callable[[Callable[[], bytes]], Awaitable[bytes]]

#: Bytes that one `read` may ask for, at most: they are held in memory.
MOST_AT_ONCE: Final = 16 * 1024 * 1024
#: Bytes of one ranged request of `fetch`.
PART: Final = 8 * 1024 * 1024
#: Name of the metadata by which an upload knows its own object again.
UPLOAD_ID: Final = "cached-upload"
#: In the details of an error of `put`: what was to be stored may be there all the same.
PERHAPS_STORED: Final = "perhaps_stored"

Progress = Callable[[int], None]


class Origin(Protocol):
    """Objects in Cloud Storage, asked for as somebody.

    `token` is the access token of the user who wants it, `NODE_ACCOUNT` (None) or `ANONYMOUS` (""). Any call may
    raise `NotFound` (no such object or bucket), `Forbidden` (denied, or the credentials have expired) and
    `OriginUnavailable` (no answer within the patience of the adapter); the message names the object and the cause.
    """

    stats: OriginStats

    async def stat(self, address: Address, *, token: str | None) -> Pinned:
        """Return the live generation, or the one the address names; raises `OriginChanged` when that one is gone."""
        ...

    def pages(
        self, bucket: str, prefix: str, *, token: str | None, delimiter: str = ""
    ) -> AsyncIterator[Page]:
        """Yield the objects whose names begin with `prefix`, in order of their names; one request for each page.

        With a `delimiter`, those that have it in the rest of the name only by how they begin, up to and with it, once
        each.
        """
        ...

    def list(self, bucket: str, prefix: str, *, token: str | None) -> AsyncIterator[Pinned]:
        """Yield all objects whose names begin with `prefix`, in order of their names."""
        ...

    async def read(self, pinned: Pinned, start: int, stop: int, *, token: str | None) -> bytes:
        """Return the stored bytes `start <= i < stop`, cut at the object's end; at most `MOST_AT_ONCE`.

        Raises `OriginChanged` when that generation is gone, `IntegrityFailed` when all of it was read and is wrong.
        """
        ...

    async def fetch(
        self,
        pinned: Pinned,
        fd: int,
        *,
        token: str | None,
        progress: Progress | None = None,
        part: int = PART,
        parallel: int = 8,
    ) -> None:
        """Write all bytes to the descriptor, in any order, and compare their crc32c.

        `progress` hears how many bytes are in place. After an error or a cancellation nothing writes any more; what
        is in the file then is worth nothing. Raises `OriginChanged`, `IntegrityFailed`, `OSError` of the writes.
        """
        ...

    async def put(
        self,
        fd: int,
        size: int,
        address: Address,
        *,
        token: str | None,
        crc32c: int,
        if_generation: int | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        on_session: Callable[[str], None] | None = None,
        resume: str = "",
        reading: Reading | None = None,
        progress: Progress | None = None,
    ) -> Pinned:
        """Store the first `size` bytes of the descriptor as an object whose crc32c is known.

        `if_generation`: 0 for only if there is none yet, a number for only over that one, None for always.
        `on_session` hears the secret address under which a large upload can be gone on with, which `resume` takes;
        `progress` how many bytes of it are there.
        `reading` runs what reads from the descriptor, which blocks; None: it is the node's own, and answers.
        Raises `OriginChanged` when the condition does not hold, `IntegrityFailed` when the bytes are not those.
        """
        ...

    async def delete(self, address: Address, *, token: str | None) -> None:
        """Delete an object, of the generation that the address names, if any; absent is fine."""
        ...

    async def close(self) -> None:
        """Give back threads and connections."""
        ...

"""An upload under way on this node, as everybody here may look at it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from cached.catalog.rows import UploadRow
from cached.errors import CachedError
from cached.origin.waiting import Waiting


class Done(msgspec.Struct, kw_only=True):
    """What of an upload is there already."""

    #: Generation and crc32c of each file's object, by path.
    objects: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    #: Where large uploads that were begun can be gone on with, by path. Whoever knows one can write there.
    sessions: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(kw_only=True)
class Upload:
    """One upload of this node."""

    row: UploadRow
    done: Done
    #: Bytes of the files that are there, and of each that is just being sent, by path.
    bytes_done: int = 0
    going: dict[str, int] = field(default_factory=dict)
    bytes_wanted: int = 0
    #: Why the last attempt failed.
    error: CachedError | None = None
    #: What the present one waits for.
    waiting: Waiting = field(default_factory=Waiting)
    #: When the next one begins, on the monotonic clock; None while one goes on.
    retry_at: float | None = None
    #: Set when an attempt has ended, well or not; and to begin the next one at once.
    attempted: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    noted: float = 0.0
    #: Its set was deleted: nothing more is sent.
    stopped: bool = False

    @property
    def bytes_present(self) -> int:
        """Bytes that are there, as far as the origin has said."""
        return self.bytes_done + sum(tuple(self.going.values()))

    @property
    def reason(self) -> str:
        """Why it waits, in words; empty while it goes on."""
        why = self.waiting.reason if self.error is None else self.error.message
        return f"not in the origin yet: {why}" if why else ""

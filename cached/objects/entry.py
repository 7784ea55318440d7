"""One copy of an object, or of a block of one, on this node: what it is, who uses it, where it lies."""

from __future__ import annotations

import msgspec

from cached.objects.admission import Tier
from cached.objects.eviction import Source
from cached.objects.key import ObjectKey

#: Users remembered of one copy; the one who has not read it for longest is forgotten first.
USERS = 16


def copy_name(key: ObjectKey, block: int | None = None) -> str:
    """Return the name of a copy: the digest of its key, with the number of the block when it is only that."""
    return key.digest if block is None else f"{key.digest}.{block}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What of an entry outlives the daemon; where it lies is found by looking."""

    name: str
    key: ObjectKey
    block: int | None
    size: int
    #: Checksum of its bytes (CRC-32C).
    crc32c: int
    scope: str
    #: User ids, the last reader last; the first time the one who brought it.
    users: tuple[str, ...]
    source: Source
    #: Wall clock, seconds.
    last_used: float
    #: The same for each user, where there are several.
    uses: dict[str, float] = {}
    frequency: int
    #: Boot id in which the checksum was last found right; empty: never.
    boot: str


class Held(msgspec.Struct, frozen=True):
    """A copy's file in one tier: the name under which its room is taken, and the bytes that the file system gave it."""

    ticket: str
    allocated: int


class Entry(msgspec.Struct, kw_only=True, eq=False):
    """A copy in the index; the fields of `Row`, and what is true only while the daemon runs."""

    name: str
    key: ObjectKey
    block: int | None
    size: int
    crc32c: int
    scope: str
    users: tuple[str, ...]
    source: Source
    last_used: float
    uses: dict[str, float] = {}
    frequency: int
    boot: str
    #: The tiers where it lies.
    held: dict[Tier, Held] = {}
    #: Who reads it now.
    pins: int = 0
    #: Nobody has a pin on it, but it was found open: its room would not come back if it went.
    borrowed: bool = False
    #: Its place among those that may go; see `eviction`.
    score: float = 0.0
    #: Its size and checksum are those that Cloud Storage gives, and not only what another node said.
    matched: bool = False

    @property
    def row(self) -> Row:
        """Return what is written down."""
        return Row(**{field: getattr(self, field) for field in Row.__struct_fields__})

    @staticmethod
    def of(row: Row) -> Entry:
        """Return an entry that lies nowhere yet."""
        return Entry(**{field: getattr(row, field) for field in Row.__struct_fields__})

    def used_by(self, user: str, now: float, times: int = 1) -> None:
        """Note a use, or several."""
        self.frequency += times
        if user and self.users != (user,):
            self._shared(user, now)
        elif user and self.uses:
            self.uses = {user: now}
        self.last_used = max(self.last_used, now)

    def used_at(self, user: str) -> float:
        """Return when a user used it last, as far as it is known: when others do is not that user's to see."""
        return self.uses.get(user, self.last_used)

    def _shared(self, user: str, now: float) -> None:
        uses = self.uses or dict.fromkeys(self.users, self.last_used)
        if self.users[-1:] != (user,):
            self.users = (*(one for one in self.users if one != user), user)[-USERS:]
        if len(self.users) > 1:
            self.uses = {one: uses[one] for one in self.users if one in uses} | {user: now}

"""What users take, as it adds up: bytes held over time, and what was moved for them.

Bytes held count from one look to the next: what was there at a look counts for all the time until the next one. How
long that was, the clocks say as they do for leases (`cached.leases.deadline`): a step of the wall clock charges
nobody. The wall clock only says to which hours the time belongs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from cached.leases import deadline
from cached.leases.deadline import Moment

#: Seconds that are charged between two looks, at most: after a longer pause nobody can tell what was there.
MOST: Final = 30 * 86_400.0
HOUR: Final = 3600
#: Scopes of one user that are told apart within an hour; what more of them take counts as the user's without a scope.
SCOPES: Final = 1000


class Line(NamedTuple):
    """What is counted together."""

    #: User id; empty where nobody is known.
    owner: str
    kind: Literal["set", "object"]
    #: Where the bytes lie, or came from; `origin` for what Cloud Storage served or took.
    tier: str
    scope: str


class Figures(msgspec.Struct):
    """What has added up; see `cached.catalog.rows.LedgerRow`."""

    byte_seconds: float = 0.0
    saved_bytes: int = 0
    saved_operations: int = 0
    spent_bytes: int = 0
    spent_operations: int = 0

    def add(self, other: Figures) -> None:
        """Add what another has."""
        self.byte_seconds += other.byte_seconds
        self.saved_bytes += other.saved_bytes
        self.saved_operations += other.saved_operations
        self.spent_bytes += other.spent_bytes
        self.spent_operations += other.spent_operations


class Charge(NamedTuple):
    """What has added up in one hour (hours since 1970, UTC)."""

    hour: int
    line: Line
    figures: Figures


def split(end: float, seconds: float) -> Iterator[tuple[int, float]]:
    """Yield the hours that the `seconds` before the wall-clock time `end` fall into, the last first, with their parts.

    The parts add up to `seconds`; what would lie before 1970 counts as its first hour.
    """
    while seconds > 0:
        hour = math.ceil(end / HOUR) - 1
        part = seconds if hour <= 0 else min(seconds, end - hour * HOUR)
        yield max(0, hour), part
        seconds -= part
        end = float(hour * HOUR)


def shares(size: int, users: Iterable[str], scope: str) -> list[tuple[str, str, float]]:
    """Return who is charged for a copy that several users use: (user, scope, bytes), in equal parts.

    The scope is that of whoever brought the copy. It is nobody else's to see, so it counts as long as there is but one
    user. A copy that no user is known of is charged to nobody, the empty name.
    """
    owners = list(dict.fromkeys(users)) or [""]
    return [(owner, scope if len(owners) == 1 else "", size / len(owners)) for owner in owners]


def read(parts: Mapping[str, int], operations: int, reads: int = 1) -> Iterator[tuple[str, Figures]]:
    """Yield what a read, or several, is to be charged, by tier; `parts` are its bytes by where they came from.

    `operations` were asked of Cloud Storage for it. What came from elsewhere saved its bytes, and a request for each
    read if Cloud Storage served nothing at all.
    """
    saved = 0 if operations or "origin" in parts else reads
    for place, size in parts.items():
        if place != "origin":
            yield place, Figures(saved_bytes=size, saved_operations=saved)
            saved = 0
    if operations or "origin" in parts:
        yield "origin", Figures(spent_bytes=parts.get("origin", 0), spent_operations=operations)


class Meter:
    """Charges that are not written down yet."""

    def __init__(self) -> None:
        self._held: dict[Line, float] = {}
        self._mark: Moment | None = None
        self._charges: dict[tuple[int, Line], Figures] = {}
        self._moved: dict[Line, Figures] = {}
        #: The scopes that are told apart in this hour, by owner.
        self._scopes: dict[str, set[str]] = {}
        self._hour = 0

    def resume(self, mark: Moment | None, held: Mapping[Line, float], now: Moment) -> None:
        """Go on after a restart, from the `mark` written down last: what is held now was there since.

        Memory was not, if the machine was off meanwhile. Without a mark, nothing is charged.
        """
        self._mark = mark
        off = mark is not None and mark.boot_id != now.boot_id
        self._hold({line: size for line, size in held.items() if not (off and line.tier == "memory")})

    def look(self, held: Mapping[Line, float], now: Moment) -> Moment:
        """Charge what was held since the last look, and note what is held from now on; return the new mark."""
        mark = self._mark or now
        passed = min(MOST, deadline.elapsed(mark, now))
        for hour, seconds in split(now.wall, passed):
            for line, size in self._held.items():
                self._add(hour, line, Figures(byte_seconds=size * seconds))
        self._hold(held)
        self._mark = deadline.advance(mark, now)
        return self._mark

    def moved(self, line: Line, figures: Figures) -> None:
        """Charge what was moved; it counts for the hour in which it is taken."""
        line = self._told(line)
        known = self._moved.get(line)
        if known is None:
            known = self._moved[line] = Figures()
        known.add(figures)

    def take(self, now: Moment) -> list[Charge]:
        """Return all charges, to be written down; `give_back` them if that fails."""
        moved, self._moved = self._moved, {}
        hour = max(0, int(now.wall // HOUR))
        for line, figures in moved.items():
            self._add(hour, line, figures)
        if hour != self._hour:
            self._hour, self._scopes = hour, {}
        charges, self._charges = self._charges, {}
        return [Charge(hour, line, figures) for (hour, line), figures in charges.items()]

    def give_back(self, charges: Iterable[Charge]) -> None:
        """Take back charges that could not be written down."""
        for hour, line, figures in charges:
            self._add(hour, line, figures)

    def _hold(self, held: Mapping[Line, float]) -> None:
        self._held = {}
        for line, size in held.items():
            if size > 0:
                told = self._told(line)
                self._held[told] = self._held.get(told, 0.0) + size

    def _told(self, line: Line) -> Line:
        """Return what is written down: a scope costs nothing to make up, and a row for each would fill the disk."""
        if not line.scope:
            return line
        known = self._scopes.setdefault(line.owner, set())
        if line.scope not in known:
            if len(known) >= SCOPES:
                return line._replace(scope="")
            known.add(line.scope)
        return line

    def _add(self, hour: int, line: Line, figures: Figures) -> None:
        known = self._charges.get((hour, line))
        if known is None:
            known = self._charges[hour, line] = Figures()
        known.add(figures)

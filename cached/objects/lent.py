"""What users have open: one of them may not keep so much of the cache that nothing is left for the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final

import msgspec

#: Part of the tiers together that what one user has open may take, the largest copy left out of account.
SHARE: Final = 0.5
#: Smaller copies do not count. Limits on open files would keep larger ones from becoming many, but memory can be mapped
#: from tens of thousands of copies by each process.
LEAST: Final = 4 << 10
#: Opens of one user that the node keeps account of; there are no more.
MOST: Final = 1 << 18
#: Copies looked at while somebody waits, and in one round in the background.
AT_ONCE: Final = 100
ROUND: Final = 2000


class _Copy(msgspec.Struct):
    size: int
    #: Opens that hold it. None, and yet it is here: it may be open still, nobody has looked.
    pins: int = 0


class Lent:
    """Copies by user and name, each counted once for a user."""

    def __init__(self, share: float = SHARE, least: int = LEAST, most: int = MOST) -> None:
        self._share = share
        self._most = most
        self._least = least
        self._copies: dict[str, dict[str, _Copy]] = {}
        self._bytes: dict[str, int] = {}
        self._opens: Counter[str] = Counter()

    def lend(self, user: str, name: str, size: int) -> None:
        """Note that a user opened a copy."""
        self._opens[user] += 1
        if size < self._least:
            return
        copies = self._copies.setdefault(user, {})
        copy = copies.get(name)
        if copy is None:
            copy = copies[name] = _Copy(size)
            self._bytes[user] = self._bytes.get(user, 0) + size
        copy.pins += 1

    def close(self, user: str, name: str) -> None:
        """Note that a user says to have closed a copy; whether it is, somebody has to look."""
        self._opens[user] -= 1
        if not self._opens[user]:
            del self._opens[user]
        copy = self._copies.get(user, {}).get(name)
        if copy is not None:
            copy.pins -= 1

    def allows(self, user: str, name: str, size: int, capacity: int, is_open: Callable[[str], bool]) -> bool:
        """Say whether a user may have one more copy open, in tiers of `capacity` bytes.

        `is_open` tells of a copy without a pin whether somebody has it open all the same.
        """
        if self._opens.get(user, 0) >= self._most:
            return False
        copies, most = self._copies.get(user, {}), self._share * capacity
        if size < self._least or name in copies or self._bytes.get(user, 0) + size <= most:
            return True
        idle = list(islice((other for other, copy in copies.items() if not copy.pins), AT_ONCE))
        for other in idle:
            self._looked_at(user, other, open_still=is_open(other))
        sizes = [size, *(copy.size for copy in copies.values())]
        return sum(sizes) - max(sizes) <= most

    def unproven(self) -> list[str]:
        """Return names of copies that have no pin and may be open, not too many."""
        found = (name for copies in self._copies.values() for name, copy in copies.items() if not copy.pins)
        return list(islice(dict.fromkeys(found), ROUND))

    def proven(self, names: Collection[str], still: Collection[str]) -> None:
        """Take in which of these copies are still open; the others are nobody's any more."""
        for user in list(self._copies):
            for name in names:
                copy = self._copies.get(user, {}).get(name)
                if copy is not None and not copy.pins:
                    self._looked_at(user, name, open_still=name in still)

    def held(self, user: str) -> int:
        """Return the bytes that a user is taken to have open."""
        return self._bytes.get(user, 0)

    def _looked_at(self, user: str, name: str, *, open_still: bool) -> None:
        """Forget a copy that is closed; one that is not is looked at again after all others."""
        copies = self._copies[user]
        copy = copies.pop(name)
        if open_still:
            copies[name] = copy
            return
        self._bytes[user] -= copy.size
        if not copies:
            del self._copies[user], self._bytes[user]

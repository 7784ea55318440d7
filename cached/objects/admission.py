"""What is let in, and where: disk first, memory on the second touch or when somebody asks for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

Tier = Literal["memory", "disk"]

#: Touches remembered of copies that are not here.
GHOSTS: Final = 32_768
#: Touches after which a copy belongs into memory.
TOUCHES: Final = 2
#: Part of the memory tier that one object may take while there is a disk below it: a larger one would cost more
#: others their place than one read of it can win, and the page cache serves it from disk as well.
SHARE: Final = 0.25


class Ghosts:
    """How often something was touched before it went: names and numbers only, the longest untouched go first."""

    def __init__(self, limit: int = GHOSTS) -> None:
        self._limit = limit
        self._touches: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._touches)

    def keep(self, name: str, touches: int) -> None:
        """Remember what is going, or was touched and not let in."""
        self._touches[name] = touches
        self._touches.move_to_end(name)
        while len(self._touches) > self._limit:
            self._touches.popitem(last=False)

    def touches(self, name: str) -> int:
        """Return how often it was touched before; 0: unknown."""
        return self._touches.get(name, 0)

    def forget(self, name: str) -> None:
        """Forget about it: it is here again, and its entry counts its touches."""
        self._touches.pop(name, None)


def ceiling(tier: Tier, cap: int, *, alone: bool) -> int:
    """Return the largest copy that a tier of `cap` bytes takes; `alone`: there is no other tier.

    The disk, and a memory that is alone, take whatever fits: the only other way is to read through, again and again.
    """
    return cap if tier == "disk" or alone else int(cap * SHARE)


def belongs_in_memory(touches: int, *, flagged: bool) -> bool:
    """Say whether a copy touched so often, this time included, or asked for, is to be kept in memory."""
    return flagged or touches >= TOUCHES

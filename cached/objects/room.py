"""Space of one tier: nothing is written that was not reserved, and used + reserved never exceed the cap."""

from __future__ import annotations

from typing import Final

#: Bytes in which file systems and memory give space.
BLOCK: Final = 4096


def rounded(size: int) -> int:
    """Return the bytes of whole blocks that `size` bytes take; an empty file counts as one block.

    Raises `ValueError` for a size below zero.
    """
    if size < 0:
        raise ValueError(f"a size of {size} bytes")
    return max(1, -(-size // BLOCK)) * BLOCK


class Room:
    """The bytes of one tier, in whole blocks: used by copies, reserved for what is being written, and free.

    Names are the caller's: a ticket for each reservation, and a name for each copy.
    """

    def __init__(self, cap: int) -> None:
        self.cap = max(0, cap)
        self._used: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._used_bytes = 0
        self._reserved_bytes = 0

    @property
    def used(self) -> int:
        """Return the bytes of copies."""
        return self._used_bytes

    @property
    def reserved(self) -> int:
        """Return the bytes promised to what is being written."""
        return self._reserved_bytes

    @property
    def free(self) -> int:
        """Return the bytes that may still be reserved."""
        return self.cap - self._used_bytes - self._reserved_bytes

    def lacks(self, size: int) -> int:
        """Return how many bytes must go before `size` bytes can be reserved; 0: none."""
        return max(0, rounded(size) - self.free)

    def could_hold(self, size: int) -> bool:
        """Say whether `size` bytes would fit if no copy were here: reservations are never taken back."""
        return rounded(size) <= self.cap - self._reserved_bytes

    def reserve(self, ticket: str, size: int) -> bool:
        """Reserve whole blocks for `size` bytes, or nothing and return False. A ticket is good once.

        Raises `ValueError` for a ticket that is in use.
        """
        if ticket in self._reserved:
            raise ValueError(f"ticket {ticket} is in use")
        wanted = rounded(size)
        if wanted > self.free:
            return False
        self._reserved[ticket] = wanted
        self._reserved_bytes += wanted
        return True

    def resize(self, ticket: str, size: int) -> bool:
        """Make a reservation as large as what the file system really gave; False when that does not fit.

        Raises `KeyError` for an unknown ticket.
        """
        more = rounded(size) - self._reserved[ticket]
        if more > self.free:
            return False
        self._reserved[ticket] += more
        self._reserved_bytes += more
        return True

    def cancel(self, ticket: str) -> int:
        """Give a reservation back; return its bytes, 0 when there is none."""
        promised = self._reserved.pop(ticket, 0)
        self._reserved_bytes -= promised
        return promised

    def commit(self, ticket: str, name: str, allocated: int) -> bool:
        """Turn a reservation into a copy of `allocated` bytes (what the file system counts).

        A file system may take more than was reserved. When that does not fit, nothing changes and the answer is
        False: the copy has to go. Raises `ValueError` for an unknown ticket or a name that is in use.
        """
        if ticket not in self._reserved or name in self._used:
            raise ValueError(f"no reservation {ticket}, or {name} is here already")
        taken = rounded(allocated)
        if taken > self._reserved[ticket] + self.free:
            return False
        self.cancel(ticket)
        self._use(name, taken)
        return True

    def adopt(self, name: str, allocated: int) -> bool:
        """Count a copy found here; False when it does not fit, and nothing changes.

        Raises `ValueError` for a name that is in use.
        """
        if name in self._used:
            raise ValueError(f"{name} is here already")
        if rounded(allocated) > self.free:
            return False
        self._use(name, rounded(allocated))
        return True

    def drop(self, name: str) -> int:
        """Forget a copy that is gone; return its bytes, 0 when there is none."""
        taken = self._used.pop(name, 0)
        self._used_bytes -= taken
        return taken

    def _use(self, name: str, taken: int) -> None:
        self._used[name] = taken
        self._used_bytes += taken

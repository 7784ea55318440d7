"""Which member of a Redis Cluster keeps a name: the slots of the Redis Cluster specification."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

T = TypeVar("T")

SLOTS: Final = 16_384


class Span(NamedTuple):
    """Slots `first` to `last`, and the master that keeps them."""

    first: int
    last: int
    host: str
    port: int


def slot(name: str) -> int:
    """Return the slot of a name without braces: its CRC16 (XMODEM), modulo the number of slots."""
    return binascii.crc_hqx(name.encode(), 0) % SLOTS


def spans(answer: Any, asked: str) -> list[Span]:
    """Read the answer to `CLUSTER SLOTS`; a master without a host is the server `asked`.

    Raises:
        ValueError: it is no such answer.
    """
    try:
        return [_span(row, asked) for row in answer]
    except (TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not an answer to CLUSTER SLOTS: {error}") from None


def _span(row: Any, asked: str) -> Span:
    first, last, master = row[:3]
    host = master[0].decode() if master[0] else asked
    found = Span(int(first), int(last), host, int(master[1]))
    if not 0 <= found.first <= found.last < SLOTS or not 0 < found.port < 65_536:
        raise ValueError(f"not slots of a master: {found}")
    return found


def owners(found: Iterable[tuple[Span, T]]) -> list[T | None]:
    """Return for each slot who keeps it."""
    table: list[T | None] = [None] * SLOTS
    for span, owner in found:
        table[span.first : span.last + 1] = [owner] * (span.last + 1 - span.first)
    return table

"""What the matchmaker and its child process say: length-prefixed MessagePack on two pipes.

Each ad is sent once and from then on named by a number. A shared page tells how far the child has come,
without a system call: when the child is gone, whoever started it reads there which pair it was working on.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

LENGTH: Final = struct.Struct("<I")
#: A request of 256 pairs of ads of 32 KiB each stays below it.
MAX_FRAME: Final = 64 << 20

#: The shared page: position in the request, and what is done there.
PROGRESS: Final = struct.Struct("<II")
IDLE, PARSING, SET_SIDE, NODE_SIDE = range(4)

#: CPU seconds that one pair, one ad or one expression may take.
CPU_LIMIT: Final = 0.5
#: Memory that evaluation may take besides what the child needs to live, in bytes.
MEMORY_LIMIT: Final = 256 << 20


class Request(msgspec.Struct, array_like=True):
    """Work for the child: forget some ads, learn some, then check one expression or match pairs."""

    forget: list[int]
    learn: list[tuple[int, dict[str, Any]]]
    #: Pairs of numbers of ads, the set's first.
    pairs: list[tuple[int, int]]
    expression: str | None = None


class Reply(msgspec.Struct, array_like=True):
    """The verdicts in the order of the pairs, `None` for agreement; or what is wrong with the expression."""

    verdicts: list[tuple[bool, bool, list[str]] | None]
    #: Message and hint.
    error: tuple[str, str] | None = None

"""Metadata that is handed on: of many receivers a few get it with their offers, and the others from these (ADR 38)."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from cached.errors import CachedError
from cached.node import metadata
from cached.node.meeting import Meeting
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.node.shelf import Known
from cached.replication import placement
from cached.sets import coarse as coarsely
from cached.sets.set import SetRecord

#: So many bytes in all go to everybody: a tenth of a second at 10 Mbit/s, and to ask takes time, too.
_LITTLE: Final = 128 << 10
#: At least so many nodes get it with their offers.
_FEWEST: Final = 4
#: Seconds for those to accept before the others are made their offers, for them to have it ready, and between two
#: attempts to get it from them.
ANSWER: Final = 2.0
_READY: Final = 4.0
_AGAIN: Final = 0.05
#: Bytes of a manifest for each file, and some more.
_USUAL_LINE: Final = 256
#: So many of those who have it are asked, should the first not give it.
_ASKED: Final = 3


def first(size: int, receivers: int) -> int:
    """Return how many of so many receivers get metadata of `size` bytes with their offers."""
    if size * receivers <= _LITTLE:
        return receivers
    return min(receivers, max(_FEWEST, math.isqrt(receivers)))


def _usual(record: SetRecord) -> int:
    """Return how many bytes the metadata of a set with coarse digests has, unless its paths are very long."""
    return coarsely.longest(record.bytes) + _USUAL_LINE * record.files


async def take(node: Node, known: Known, meeting: Meeting, described: Sequence[str]) -> Metadata | None:
    """Return a set's metadata from one of those who were named in the offer; None where none of them has it in time.

    Of these each node asks others first, and nobody that it need not.
    """
    left = deque(placement.rendezvous(node.id, described)[:_ASKED])
    loop = asyncio.get_running_loop()
    until = loop.time() + _READY
    while left and (patience := until - loop.time()) > 0:
        if not await meeting.meet(left[0], patience / 2):  # who is silent leaves time for others
            left.popleft()
            continue
        try:
            async with asyncio.timeout(_READY + _usual(known.record) / metadata.SLOWEST):
                found = await metadata.ask(node, left[0], known, coarse=True)
        except TimeoutError:
            left.popleft()
            continue
        except CachedError:
            left.rotate(-1)
        else:
            node.counters.add("metadata.handed_on")
            return found
        await asyncio.sleep(_AGAIN)
    return None

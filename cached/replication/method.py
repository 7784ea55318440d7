"""How a set travels: one verified stream (`direct`) or the swarm (`bittorrent`).

The swarm's start costs more than moving a small set, and between two nodes its speed is half that of a
stream; from two receivers on it spares the source's link, which is what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Sets up to this many bytes go direct, if few nodes want them.
DIRECT_UP_TO: Final = 32 << 20
#: So few that a source sends this many bytes in all: a second at 1 Gbit/s, which is what a swarm takes to begin.
_IN_ALL: Final = 128 << 20
#: Fewer bytes than this go direct, however many nodes want them; for a transfer under way, which has paid for most of
#: its start, they are not worth another one.
_WORTH: Final = 8 << 20


def choose(
    set_methods: Sequence[str],
    sender_methods: Sequence[str],
    receiver_methods: Sequence[str],
    total_bytes: int,
    receivers: int,
) -> str:
    """Return the better of the methods that set, sender and receiver all allow; empty when there is none.

    `receivers` counts the nodes that are to get the set at about the same time.
    """
    common = {method for method in set_methods if method in sender_methods and method in receiver_methods}
    little = total_bytes <= _WORTH or total_bytes * receivers <= _IN_ALL
    best = "direct" if receivers <= 1 or (little and total_bytes <= DIRECT_UP_TO) else "bittorrent"
    if best in common:
        return best
    return next((method for method in ("bittorrent", "direct") if method in common), "")


def worth_sharing(left: int, others: int) -> bool:
    """Tell whether to leave a stream for the swarm: `others` want the set now, `left` bytes are to come."""
    return others > 0 and left > _WORTH


def refusal(
    set_methods: Sequence[str], sender_methods: Sequence[str], receiver_methods: Sequence[str]
) -> str:
    """Say in words why `choose` found no method."""
    sides = (("the set", set_methods), ("the sender", sender_methods), ("the receiver", receiver_methods))
    allowed = "; ".join(f"{who} allows {', '.join(methods) or 'none'}" for who, methods in sides)
    return f"no replication method in common: {allowed}"

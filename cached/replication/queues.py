"""How many requests of 16 KiB members keep at each other, and how much of the source's share they claim ahead.

A rule, free of I/O. libtorrent learns a member's queue once, when a connection begins, and from then on lets this
many requests wait there, however fast it is. What waits at one member is not asked for elsewhere: long queues make
busy members busier while others have nothing to send; short ones starve links that are far away.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

_BLOCK = 16 * 1024
#: A member lets this many requests wait in all, whoever sent them, and no more than so many of one member. Measured
#: with five receivers: 16 for each cost 5 % of the time against 8, 4 a hundredth less than 8. With 32 of two receivers
#: the first waited for what it lacked behind half a megabyte that it was to send itself.
_WAITING = 16
_ENOUGH = 8
#: Who gets it alone, from several that have it, holds nobody up.
_ALONE = 32
_FEWEST, _MOST = 4, 128
#: In large swarms members have no more neighbours than about this, see `mesh`.
_NEIGHBOURS = 16
#: Bytes per second that one neighbour allows for, when it is far away.
_RATE = 12_500_000
#: More receivers than this get shorter queues at the source.
_CROWD = 24
#: A source lets at least so many requests wait in all: of two receivers, four each left a seventh of its line idle.
_AT_SOURCE = 16
#: The distance of so many members stands for that of all.
ASKED = 16
#: Seconds after which nobody new is expected in a swarm that nobody has joined.
_RECENT = 60.0
#: Least number of pieces to claim ahead.
_WINDOW = 4


def distance(round_trips: Iterable[float]) -> float:
    """Return how far away members are, in seconds, by the least round trip to each; 0 stands for one that is unknown.

    The median: a connection that began on a busy line has seen nothing less than what waited there, and one such
    member must not make the queues of all longer.
    """
    return statistics.median([known for known in round_trips if known] or [0.0])


def member_queue(round_trip: float, receivers: int) -> int:
    """Return how many requests one of so many receivers lets each other keep, at `round_trip` seconds from here."""
    neighbours = min(receivers - 1, _NEIGHBOURS)
    here = min(_WAITING // neighbours, _ENOUGH) if neighbours > 0 else _ALONE
    return _within(here + _on_the_way(round_trip), _FEWEST)


def source_queue(round_trip: float, receivers: int) -> int:
    """Return how many requests the source lets each receiver keep, at `round_trip` seconds from here.

    As few as fill the line: the rest would be asked for things that others have. Measured: 16 cost a quarter of
    a copy and more, 4 cost 1 %.
    """
    if receivers <= 1:
        return _MOST
    fewest = 2 if receivers > _CROWD else _FEWEST
    return _within(max(fewest, _AT_SOURCE // receivers) + _on_the_way(round_trip), fewest)


def _on_the_way(round_trip: float) -> int:
    return int(min(_RATE * round_trip / _BLOCK, _MOST))


def _within(queue: int, fewest: int) -> int:
    return min(max(queue, fewest), _MOST)


def window(queue: int, piece_size: int, rate: float) -> int:
    """Return how many pieces a node claims ahead, when `rate` bytes per second come from the source.

    Four times the `queue` of requests it keeps there, for when they run out the rest of its queue asks the
    source for pieces that are to be had elsewhere; and what comes in a second more, so that it never waits for
    an answer.
    """
    work = 4 * queue * _BLOCK + rate
    return max(_WINDOW, -(-int(work) // piece_size))


class Queues:
    """The queue that one session shows to everybody, though its contents want different ones."""

    def __init__(self) -> None:
        self._wishes: dict[str, tuple[float, int]] = {}

    def wish(self, content: str, queue: int, now: float) -> int:
        """Note what a content wants for connections that begin soon; return what to show: the shortest."""
        self._wishes[content] = (now, queue)
        self._wishes = {key: wish for key, wish in self._wishes.items() if now - wish[0] < _RECENT}
        return min(wanted for _, wanted in self._wishes.values())

    def drop(self, contents: Iterable[str]) -> None:
        """Forget contents that are not in the session any more."""
        for content in contents:
            self._wishes.pop(content, None)

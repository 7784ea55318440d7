"""Who asks the source for which piece, so that each piece leaves it once.

A rule, free of I/O and clocks: the source's daemon keeps one `ClaimTable` per content, and nodes claim a few
pieces at a time. A claim is a lease: its owner renews it with every call, and when the owner falls silent
others take the piece over. Nodes say which pieces they want: those they lack and see nowhere but at the
source. So a piece is handed out again only when the node that got it has gone without passing it on, or when
a node has waited too long for it (`stalled`).

Sets of pieces are integers: bit i stands for piece i.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

#: Seconds that a claim holds without a call from its owner.
LEASE = 5.0
#: Seconds without a byte after which a node counts as stalled.
STALL = 2.0
#: Once everything has left the source, a piece that gets on nowhere is handed out again, so many to a node at a time,
#: each to another node after so many seconds, and a hundredth of all or so many. With no limit 16 receivers, who pass
#: pieces on more slowly than few, took a twentieth of all twice.
_RESCUED = 4
_RESCUE_AGAIN = 3.0
_RESCUES = 100
_FEWEST_RESCUES = 8
#: Wanted priorities, of 1 to 7: of what was claimed, and of what is begun and is to be finished.
CLAIMED = 7
FINISHED_FIRST = 6
#: Pieces that a node which has waited too long gets, though another has had them: twice as many each time.
_TAKEN_OVER = 2


def pieces_in(bits: int) -> Iterator[int]:
    """Iterate over the pieces of a set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def bits_of(pieces: Iterable[int]) -> int:
    """Return the set of these pieces."""
    buffer = bytearray()
    for piece in pieces:
        byte = piece >> 3
        if byte >= len(buffer):
            buffer.extend(bytes(byte + 1 - len(buffer)))
        buffer[byte] |= 1 << (piece & 7)
    return int.from_bytes(buffer, "little")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """The answer to a claim."""

    pieces: tuple[int, ...]
    #: Pieces that nobody has claimed, after this grant.
    unclaimed: int
    #: Nodes that called within a lease's time.
    members: int


@dataclass(slots=True)
class _Member:
    seen: float
    #: Pieces being fetched.
    claimed: int = 0
    #: Pieces fetched.
    done: int = 0
    #: How often it has been given what another has had.
    taken_over: int = 0


class ClaimTable:
    """The claims on one content's pieces at one source."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self._all = (1 << pieces) - 1
        #: Who called last comes last.
        self._members: dict[str, _Member] = {}
        #: What all members together have claimed, each piece one of them; and fetched, which several may have.
        self._claimed = self._done = 0
        #: When which piece was handed out again although somebody has it, or is getting it.
        self._rescued: dict[int, float] = {}
        self._rescues = max(pieces // _RESCUES, _FEWEST_RESCUES)

    def claim(
        self,
        node: str,
        *,
        wanted: int,
        pending: int,
        count: int,
        stalled: bool,
        now: float,
        have: int = 0,
        stuck: int = 0,
    ) -> Grant:
        """Hand `node` up to `count` of `wanted`, renew its `pending` ones, count its others as fetched.

        A claimed piece that is neither pending nor wanted has arrived; one that is wanted again was given up. What a
        node has in other ways, a stream of its own or from an earlier attempt, has left the source, too: `have`. Of
        what it wants, `stuck` is with one member at most, and has been for long: that member may be slow.
        """
        wanted &= self._all
        have &= self._all & ~wanted
        self._forget_the_silent(now)
        member = self._members.pop(node, None) or _Member(seen=now)
        self._members[node] = member
        member.seen = now
        given_up = member.done & wanted
        arrived = (member.claimed & ~pending & ~wanted) | have
        member.done = (member.done & ~given_up) | arrived
        self._claimed &= ~(member.claimed & ~pending)
        member.claimed &= pending
        self._done |= arrived
        if given_up:
            self._recount_done()
        free = self._all & ~self._claimed & ~self._done
        share = max(1, free.bit_count() // len(self._members))
        granted = _lowest(wanted & free, min(count, share))
        if not granted and not free:
            granted = self._rescue(stuck & wanted, count, now)
        if stalled and not granted:
            granted = _lowest(wanted & ~self._claimed, min(count, _TAKEN_OVER << min(member.taken_over, 16)))
            member.taken_over += 1
        member.claimed |= granted
        self._claimed |= granted
        return Grant(
            pieces=tuple(pieces_in(granted)),
            unclaimed=(free & ~granted).bit_count(),
            members=len(self._members),
        )

    def _rescue(self, stuck: int, count: int, now: float) -> int:
        """Take pieces from whoever is too slow for them."""
        if not stuck:
            return 0
        self._rescued = {piece: at for piece, at in self._rescued.items() if now - at < _RESCUE_AGAIN}
        granted = _lowest(stuck & ~bits_of(self._rescued), min(count, _RESCUED, self._rescues))
        self._rescues -= granted.bit_count()
        for member in self._members.values():
            member.claimed &= ~granted
        self._rescued |= dict.fromkeys(pieces_in(granted), now)
        return granted

    def owners(self, now: float) -> dict[int, str]:
        """Return who holds which piece just now."""
        self._forget_the_silent(now)
        return {piece: node for node, member in self._members.items() for piece in pieces_in(member.claimed)}

    @property
    def members(self) -> Collection[str]:
        """Who has called, and has not been forgotten since; who called last comes last."""
        return self._members.keys()

    def idle(self, now: float) -> bool:
        """Return whether nobody has called for a lease's time."""
        self._forget_the_silent(now)
        return not self._members

    def _forget_the_silent(self, now: float) -> None:
        """Free what silent nodes claimed, and what they fetched too.

        If they passed it on, or are still there, others see it elsewhere and do not want it from here.
        """
        silent = list(itertools.takewhile(lambda one: one[1].seen + LEASE <= now, self._members.items()))
        for node, member in silent:
            self._claimed &= ~member.claimed
            del self._members[node]
        if silent:
            self._recount_done()

    def _recount_done(self) -> None:
        self._done = 0
        for member in self._members.values():
            self._done |= member.done


def _lowest(bits: int, count: int) -> int:
    taken = 0
    for _ in range(count):
        low = bits & -bits
        taken |= low
        bits ^= low
    return taken


def priorities(
    *,
    availability: list[int],
    sources: int,
    have: int,
    pending: int,
    gated: bool,
    begun: int = 0,
    members: int = 0,
) -> tuple[list[int], int]:
    """Return the wanted priority of each piece, and the set of pieces to be had from the source alone.

    Own claims come first; what another member has is free for all; the rest is not asked for while claims
    rule (`gated`). `availability` counts connected members per piece, `sources` of which are the source
    itself.

    Of `begun` pieces some blocks are still to be asked for. The rarest come first, which just came up somewhere,
    and those begun wait; where more than one and a half wait for each of the `members` who are connected,
    libtorrent finishes these before all others, at every member and so at the source. Where there are more than
    one for each, they come right after own claims, so that it never gets so far.
    """
    wanted = [1 if not gated or count > sources else 0 for count in availability]
    alone = bits_of(piece for piece, count in enumerate(availability) if count <= sources) & ~have
    if begun.bit_count() > members:
        for piece in pieces_in(begun):
            wanted[piece] *= FINISHED_FIRST
    for piece in pieces_in(pending):
        wanted[piece] = CLAIMED
    return wanted, alone

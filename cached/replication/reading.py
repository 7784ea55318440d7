"""Who reads which part of a content from the origin, and who gives it to whom: a rule, told the time.

When no node has the bytes, those that want them share the work: the content's line of leaves (`segments.LeafLine`) is
cut into blocks, a few members are elected to read, a block is claimed before it is read, and whoever lacks a block
gets it from a member that has it. One node, the keeper, keeps this table; all that it knows comes with each member's
`Ask`, so that another keeper can take over at any moment. What a silent member claimed is free after `LEASE` seconds.

No member is believed further than others find it true. One holds `CLAIMS` blocks at most, each for `SLOW` seconds until
it is offered to others too, however often it is claimed anew. Blocks that only members have from whom the asker has got
nothing, again and again (`Ask.distrusted`), are read as if nobody had them. And a member that gets nothing to do for
`ALONE` seconds reads what it lacks by itself, whatever the keeper says (`cached.node.pool`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from cached.sets.merkle import LEAF

#: Seconds without a word after which a member does not count any more, and what it claimed is given to another one.
LEASE = 3.0
#: Seconds for which a keeper that takes over listens before it has anything read: others may have it, or be at it.
SETTLE = 1.0
#: Seconds for which a member that has everything is remembered.
WHOLE = 600.0
#: Seconds after which a block that is still not read may be read by somebody else too, when nothing else is left.
SLOW = 30.0
#: Blocks that one member may hold claims of: more than it reads at the same time, and few of all.
CLAIMS = 16
#: Seconds after which a member that nobody gives anything to do reads by itself.
ALONE = 30.0
#: Bytes of a block, at least and at most; a content is cut into about so many.
LEAST = 1 << 20
MOST = 8 << 20
_ABOUT = 256
#: Blocks that one answer looks at, at most; no member reads or gets more at the same time.
_LOOK = 512
#: Blocks of a content that the keeper does not know yet, at most.
UNKNOWN = 1 << 14


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a member says of itself, and wants. Sets of blocks are numbers in hex, bit i for block i."""

    set: str
    content: str
    blocks: int
    have: str
    #: Blocks that it is reading from the origin.
    reading: str = "0"
    #: Blocks that it is getting, and from whom.
    getting: dict[str, str] = {}
    #: How many more it would read, and get.
    read: int = 0
    get: int = 0
    #: Members that it could get nothing from.
    avoid: tuple[str, ...] = ()
    #: Of those, the ones that gave nothing again and again, or wrong bytes: what they say to have is not there.
    distrusted: tuple[str, ...] = ()
    #: Why it cannot read from the origin; empty: it can. And the code of that error.
    unable: str = ""
    code: str = ""
    #: Nodes that may read at the same time, as this member is configured.
    readers: int = 4
    #: No keeper has told this member anything yet.
    fresh: bool = True


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a member is to do next."""

    #: Blocks to read from the origin: they are its own until it has them, or is silent.
    read: tuple[int, ...] = ()
    #: Blocks to get, and from whom.
    get: tuple[tuple[int, str], ...] = ()
    #: Nobody can read what is missing, and why.
    hopeless: str = ""
    code: str = ""
    members: int = 1
    #: Ask that node instead: it keeps the table, and answers.
    keeper: str = ""
    #: Members from whom it is getting something, and who have fallen silent.
    silent: tuple[str, ...] = ()


def block_leaves(total_bytes: int) -> int:
    """Return how many leaves make a block of a content of so many bytes; the same on every node."""
    size = LEAST
    while size < MOST and size * _ABOUT < total_bytes:
        size *= 2
    return size // LEAF


def may_be(blocks: int, total_bytes: int, files: int) -> bool:
    """Tell whether a content of so many bytes in so many files can be cut into `blocks`."""
    size = block_leaves(total_bytes)
    fewest = -(-total_bytes // LEAF)
    return -(-fewest // size) <= blocks <= -(-(fewest + files) // size)


@dataclass(slots=True)
class _Member:
    seen: float
    have: int = 0
    #: Claimed blocks, and since when.
    reading: dict[int, float] = field(default_factory=dict)
    #: When it first claimed each block: claiming one anew wins no time.
    claimed: dict[int, float] = field(default_factory=dict)
    getting: dict[int, str] = field(default_factory=dict)
    unable: str = ""
    code: str = ""
    whole: bool = False


class Table:
    """The keeper's table for one content."""

    def __init__(self, content: str, blocks: int) -> None:
        self.content = content
        self.blocks = blocks
        self._since: float | None = None
        self._all = (1 << blocks) - 1
        self._members: dict[str, _Member] = {}
        self._readers: list[str] = []

    def ask(self, who: str, ask: Ask, now: float) -> Share:
        """Take in what a member says and answer what it is to do.

        Raises `ValueError` for what is no number, or names blocks that there are not, or too many.
        """
        getting = {int(block): giver for block, giver in ask.getting.items()}
        have, reading = int(ask.have, 16) & self._all, int(ask.reading, 16) & self._all
        if not all(0 <= block < self.blocks for block in getting):
            raise ValueError("there is no such block")
        if max(len(getting), reading.bit_count()) > _LOOK:
            raise ValueError("nobody reads or gets so many blocks at the same time")
        self._forget(now)
        self._since = now if self._since is None else self._since
        member = self._members.setdefault(who, _Member(seen=now))
        member.seen, member.have, member.whole = now, have, have == self._all
        self._note_claims(member, _blocks(reading & ~have), now)
        member.getting, member.unable, member.code = getting, ask.unable, ask.code
        self._elect(max(1, ask.readers))
        settled = ask.fresh or now - self._since > SETTLE
        held = self._held(ask, now)
        read = self._claim(who, member, min(ask.read, _LOOK), held, now) if ask.read > 0 and settled else ()
        got = self._gifts(who, member, ask) if ask.get > 0 else ()
        missing = self._all & ~held
        hopeless = self._hopeless() if missing and not self._readers else ("", "")
        silent = tuple({giver for giver in getting.values() if self._is_silent(giver, now)})
        return Share(
            read=read,
            get=got,
            hopeless=hopeless[0],
            code=hopeless[1],
            members=len(self._members),
            silent=silent,
        )

    def leave(self, who: str) -> None:
        """Forget a member that gave up."""
        self._members.pop(who, None)

    def idle(self, now: float) -> bool:
        """Tell whether nobody has asked for a while."""
        self._forget(now)
        return not self._members

    def claimed(self, now: float) -> dict[int, str]:
        """Return who is reading which block."""
        self._forget(now)
        return {block: who for who, member in self._members.items() for block in member.reading}

    def _forget(self, now: float) -> None:
        for who, member in list(self._members.items()):
            if now - member.seen > (WHOLE if member.whole else LEASE):
                del self._members[who]
        if all(member.whole for member in self._members.values()) and self._members:
            last = max(member.seen for member in self._members.values())
            if now - last > WHOLE / 10:
                self._members.clear()

    def _elect(self, count: int) -> None:
        """Keep the readers that can still read; fill up in rendezvous order over those that want the content."""
        able = [who for who, member in self._members.items() if not (member.unable or member.whole)]
        stay = [who for who in self._readers if who in able][:count]
        rest = sorted(
            set(able) - set(stay), key=lambda who: sha256(f"{self.content}/{who}".encode()).digest()
        )
        self._readers = (stay + rest)[:count]

    def _note_claims(self, member: _Member, reading: list[int], now: float) -> None:
        """Take in what a member says to read: no more than `CLAIMS` blocks, those that it has claimed before first."""
        reading.sort(key=lambda block: (block not in member.reading, block))
        for block in reading[:CLAIMS]:
            member.claimed.setdefault(block, now)
        member.reading = {block: member.claimed[block] for block in reading[:CLAIMS]}

    def _is_silent(self, who: str, now: float) -> bool:
        """Tell whether a member that should speak does not; one that has everything need not."""
        member = self._members.get(who)
        return now - self._start(now) > LEASE and (
            member is None or (not member.whole and now - member.seen > LEASE)
        )

    def _start(self, now: float) -> float:
        return now if self._since is None else self._since

    def _held(self, ask: Ask, now: float) -> int:
        """Return the blocks that the asker may get from a member: not from those who have given it nothing."""
        held = 0
        for who, member in self._members.items():
            gone = who in ask.avoid and now - member.seen > LEASE
            if not (gone or who in ask.distrusted):
                held |= member.have
        return held

    def _claim(self, who: str, member: _Member, count: int, held: int, now: float) -> tuple[int, ...]:
        count = min(count, CLAIMS - len(member.reading))
        if who not in self._readers or count <= 0:
            return ()
        latest: dict[int, float] = {}
        for other in self._members.values():
            for block, since in other.reading.items():
                latest[block] = max(since, latest.get(block, since))
        missing = self._all & ~held
        given = _first(missing & ~sum(1 << block for block in latest), count)
        if not given and not member.reading:
            slow = (block for block, since in latest.items() if now - since > SLOW)
            given = _first(missing & sum(1 << block for block in slow), 1)
        member.claimed |= {block: now for block in given if block not in member.claimed}
        member.reading |= {block: member.claimed[block] for block in given}
        return tuple(given)

    def _gifts(self, who: str, member: _Member, ask: Ask) -> tuple[tuple[int, str], ...]:
        """Choose, of the blocks that others have, those that fewest have, each from whom fewest get something."""
        shunned = {who, *ask.avoid, *ask.distrusted}
        givers = {other: one for other, one in self._members.items() if other not in shunned}
        under_way = sum(1 << block for block in member.getting)
        wanted = self._all & ~member.have & ~under_way & ~sum(1 << block for block in member.reading)
        there = 0
        for one in givers.values():
            there |= one.have
        load = Counter(giver for one in self._members.values() for giver in one.getting.values())
        options = [
            (len(having), _spread(who, block), block, having)
            for block in _from(wanted & there, _spread(who, 0) % max(1, self.blocks), _LOOK)
            if (having := [other for other, one in givers.items() if one.have >> block & 1])
        ]
        gifts = []
        for _, _, block, having in sorted(options)[: ask.get]:
            giver = min(having, key=lambda other: (load[other], _spread(other, block)))
            load[giver] += 1
            gifts.append((block, giver))
        return tuple(gifts)

    def _hopeless(self) -> tuple[str, str]:
        return next(
            ((member.unable, member.code) for member in self._members.values() if member.unable), ("", "")
        )


def _spread(who: str, block: int) -> int:
    return int.from_bytes(sha256(f"{who}/{block}".encode()).digest()[:4], "big")


def _blocks(bits: int) -> list[int]:
    return _first(bits, bits.bit_count())


def _first(bits: int, count: int) -> list[int]:
    found: list[int] = []
    while bits and len(found) < count:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def _from(bits: int, start: int, count: int) -> list[int]:
    """Return blocks from `start` on, then from the beginning."""
    high = bits >> start
    found = [start + block for block in _first(high, count)]
    return found + _first(bits & ((1 << start) - 1), count - len(found))

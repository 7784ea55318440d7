"""What one node knows about the others, and which of two pieces of news is newer; a rule without clock or
sockets.

All times are seconds of one steady clock, given as arguments. Everything put in has been verified before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cached.peers.records import Beat, HolderEntry, Holding, NodeEntry, NodeRecord, Peer, SignedNode

#: Digest row: node id, incarnation, version of the record, number of the last beat.
Row = tuple[str, int, int, int]
#: A beat and the seconds since it reached the node that passes it on.
AgedBeat = tuple[Beat, float]


@dataclass(slots=True)
class Member:
    """One other node: its newest record and its last sign of life."""

    signed: SignedNode
    record: NodeRecord
    peer: Peer
    signed_at: float
    beat: Beat | None
    beat_at: float
    #: The record's replicas by set id.
    holdings: dict[str, Holding]

    def row(self) -> Row:
        """Return what this node knows, for comparison."""
        number = self.beat.beat if self.beat else 0
        return (self.record.id, self.record.incarnation, self.record.version, number)


class Comparison(NamedTuple):
    """Ids of nodes whose records and beats are newer here (give) and there (want)."""

    give_nodes: list[str]
    give_beats: list[str]
    want_nodes: list[str]
    want_beats: list[str]


def _version(row: Row | None) -> tuple[int, int]:
    return (row[1], row[2]) if row else (-1, -1)


def _pulse(row: Row | None) -> tuple[int, int]:
    return (row[1], row[3]) if row else (-1, -1)


class Members:
    """The other nodes of the cluster."""

    def __init__(self, own_id: str, *, dead_after: float = 10.0, forget_after: float = 86400.0) -> None:
        self._own_id = own_id
        self._dead_after = dead_after
        self._forget_after = forget_after
        self._members: dict[str, Member] = {}
        #: Ids of the nodes that tell of a replica, by set id.
        self._holding: dict[str, dict[str, None]] = {}
        #: By set id: when nodes last had something new to tell of their replicas of it, in the order of all such news.
        self._marks: dict[str, int] = {}
        self._news = 0

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, node_id: str) -> Member | None:
        """Return what is known of a node."""
        return self._members.get(node_id)

    def host_of(self, node_id: str) -> str:
        """Return the host at which a node can be dialled; empty when it is unknown or cannot be."""
        member = self._members.get(node_id)
        if member is None or not member.record.reachable:
            return ""
        return member.record.address.rpartition(":")[0].strip("[]")

    def alive(self, node_id: str, now: float) -> bool:
        """Tell whether a newer beat was heard lately and the node has not said goodbye."""
        member = self._members.get(node_id)
        if member is None or member.beat is None or member.beat.left:
            return False
        return now - member.beat_at <= self._dead_after

    def living(self, now: float) -> frozenset[str]:
        """Return the ids of all live nodes but our own."""
        return frozenset(node_id for node_id in self._members if self.alive(node_id, now))

    def is_news(self, record: NodeRecord) -> bool:
        """Tell whether a record is newer than the one known."""
        known = self._members.get(record.id)
        mark = (record.incarnation, record.version)
        return known is None or mark > (known.record.incarnation, known.record.version)

    def is_quiet(self, record: NodeRecord) -> bool:
        """Tell whether a record says nothing that is worth a rumour: its node says so, and none was missed between."""
        known = self._members.get(record.id)
        if known is None or not record.quiet:
            return False
        before = (known.record.incarnation, known.record.version)
        return before == (record.incarnation, record.version - 1)

    def put(self, signed: SignedNode, record: NodeRecord, peer: Peer, now: float) -> bool:
        """Take up a node's record; return whether it was news."""
        if record.id == self._own_id or not self.is_news(record):
            return False
        known = self._members.get(record.id)
        member = Member(
            signed=signed,
            record=record,
            peer=peer,
            signed_at=now - max(0.0, signed.age_seconds),
            beat=None,
            beat_at=float("-inf"),
            holdings={holding.set_id: holding for holding in record.replicas},
        )
        if known is not None and known.record.incarnation == record.incarnation:
            member.beat, member.beat_at = known.beat, known.beat_at
        self._members[record.id] = member
        self._index(record.id, known.holdings if known is not None else {}, member.holdings)
        return True

    def holding(self, set_id: str) -> Collection[str]:
        """Return the ids of the nodes that tell of a replica of a set."""
        return self._holding.get(set_id, ())

    def told(self, set_id: str, now: float) -> list[tuple[NodeEntry, Mapping[str, Holding]]]:
        """Return these nodes as others see them, each with all that it holds."""
        members = [self._members[node_id] for node_id in self.holding(set_id)]
        return [(self.entry(member, now), member.holdings) for member in members]

    def _index(self, node_id: str, before: Mapping[str, Holding], after: Mapping[str, Holding]) -> None:
        for set_id in {**before, **after}:
            then, now = before.get(set_id), after.get(set_id)
            if then is None or now is None or then.state != now.state:
                self._mark(set_id)
        for set_id in before.keys() - after.keys():
            del self._holding[set_id][node_id]
            if not self._holding[set_id]:
                del self._holding[set_id], self._marks[set_id]
        for set_id in after.keys() - before.keys():
            self._holding.setdefault(set_id, {})[node_id] = None

    def mark(self, set_id: str) -> int:
        """Return a number that is another whenever it is another that nodes, or the living ones, tell of a set."""
        return self._marks.get(set_id, 0)

    def touch(self, node_ids: Iterable[str]) -> None:
        """Note that these nodes came to life or died."""
        for member in filter(None, map(self._members.get, node_ids)):
            for set_id in member.holdings:
                self._mark(set_id)

    def _mark(self, set_id: str) -> None:
        self._news += 1
        self._marks[set_id] = self._news

    def _take_out(self, node_id: str) -> bool:
        """Forget a node; return whether it was known."""
        member = self._members.pop(node_id, None)
        self._index(node_id, member.holdings if member is not None else {}, {})
        return member is not None

    def wants_beat(self, beat: Beat) -> bool:
        """Tell whether a beat is newer than what is known and belongs to the incarnation known."""
        known = self._members.get(beat.node_id)
        if known is None or known.record.incarnation != beat.incarnation:
            return False
        return known.beat is None or beat.beat > known.beat.beat

    def put_beat(self, beat: Beat, age: float, now: float) -> bool:
        """Take up a beat that took `age` seconds to get here; return whether the node came to life or left
        by it.
        """
        if not self.wants_beat(beat) or age >= self._forget_after:
            return False
        before = self.alive(beat.node_id, now)
        member = self._members[beat.node_id]
        member.beat = beat
        member.beat_at = max(member.beat_at, now - max(0.0, age))
        return before != self.alive(beat.node_id, now)

    def forget(self, now: float) -> None:
        """Drop nodes that were not heard of for a day."""
        for member in list(self._members.values()):
            if now - max(member.beat_at, member.signed_at) > self._forget_after:
                self._take_out(member.record.id)

    def drop(self, node_ids: Iterable[str]) -> frozenset[str]:
        """Drop nodes (revoked ones); return those that were known."""
        return frozenset(node_id for node_id in node_ids if self._take_out(node_id))

    def rows(self, node_ids: Iterable[str] | None = None) -> list[Row]:
        """Return the digest of what is known of these nodes, or of everything."""
        if node_ids is None:
            return [member.row() for member in self._members.values()]
        return [self._members[node_id].row() for node_id in node_ids if node_id in self._members]

    def outdated(self, row: Row) -> bool:
        """Tell whether a row is of a newer record than the one known."""
        known = self._members.get(row[0])
        return row[0] != self._own_id and _version(row) > _version(known.row() if known else None)

    def compare(self, own: Row, rows: Sequence[Row]) -> Comparison:
        """Compare another node's digest with ours, in which `own` is our own row."""
        theirs = {row[0]: row for row in rows}
        ours = {row[0]: row for row in (own, *self.rows())}
        return Comparison(
            give_nodes=[one for one, row in ours.items() if _version(row) > _version(theirs.get(one))],
            give_beats=[one for one, row in ours.items() if _pulse(row) > _pulse(theirs.get(one))],
            want_nodes=[one for one, row in theirs.items() if _version(row) > _version(ours.get(one))],
            want_beats=[one for one, row in theirs.items() if _pulse(row) > _pulse(ours.get(one))],
        )

    def signed(self, node_ids: Iterable[str], now: float) -> list[SignedNode]:
        """Return records to pass on, each with its age."""
        return [
            msgspec.structs.replace(member.signed, age_seconds=now - member.signed_at)
            for member in map(self._members.get, node_ids)
            if member is not None
        ]

    def beats(self, node_ids: Iterable[str], now: float) -> list[AgedBeat]:
        """Return beats to pass on, each with its age."""
        return [
            (member.beat, now - member.beat_at)
            for member in map(self._members.get, node_ids)
            if member is not None and member.beat is not None
        ]

    def entry(self, member: Member, now: float) -> NodeEntry:
        """Return a node as others see it."""
        return NodeEntry(
            record=member.record,
            alive=self.alive(member.record.id, now),
            age=max(0.0, now - max(member.beat_at, member.signed_at)),
            record_age=max(0.0, now - member.signed_at),
            domains=member.peer.domains,
            left=member.beat is not None and member.beat.left,
        )


def find(entries: Iterable[NodeEntry], name: str) -> NodeEntry | None:
    """Return the node with this id, name, host or unambiguous beginning (8+ digits) of an id; live ones first."""
    ordered = sorted(entries, key=lambda entry: not entry.alive)
    for field in ("id", "name", "host"):
        for entry in ordered:
            if getattr(entry.record, field) == name:
                return entry
    found = [entry for entry in ordered if len(name) >= 8 and entry.record.id.startswith(name)]
    return found[0] if len(found) == 1 else None


def holders(set_id: str, told: Iterable[tuple[NodeEntry, Mapping[str, Holding]]]) -> list[HolderEntry]:
    """Return a set's replicas among what nodes tell of, with leases brought forward to now."""
    return [
        HolderEntry(node=entry, holding=_aged(holdings[set_id], entry.record_age))
        for entry, holdings in told
        if set_id in holdings
    ]


def _aged(holding: Holding, age: float) -> Holding:
    return msgspec.structs.replace(
        holding,
        lease_seconds_left=max(0.0, holding.lease_seconds_left - age),
        set_lease_seconds_left=max(0.0, holding.set_lease_seconds_left - age),
    )

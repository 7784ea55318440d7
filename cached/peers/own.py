"""This node's own record and beat: what it says of itself, with a new version only when something changed, and signed
once somebody is told: what changes again before that costs no signature.
"""

from __future__ import annotations

import enum
import logging

import msgspec

from cached.peers.gossip import MAX_RECORD
from cached.peers.identity import Identity
from cached.peers.members import AgedBeat, Row
from cached.peers.records import Beat, Holding, NodeContents, NodeEntry, NodeRecord, SignedNode

log = logging.getLogger(__name__)

#: Two lease times that differ by less than this many seconds are the same lease, seen a little later.
SAME_LEASE = 2.0
#: How far replicas on their way are is told again after so many seconds, or so many for each node that hears it: then
#: what all nodes tell costs a node a kilobyte a second, however many they are. On slow links it took a twentieth of
#: what the bytes themselves did. Whoever watches asks, see `cached.node.watching`.
PROGRESS = 10.0
PROGRESS_EACH = 3.0


class Said(enum.Enum):
    """What came of saying something: nothing new, something for the next comparison, or news to be spread at once."""

    SAME = enum.auto()
    QUIETLY = enum.auto()
    ALOUD = enum.auto()


class OwnRecord:
    """Signs what this node says of itself; times are seconds of one steady clock."""

    def __init__(self, identity: Identity, name: str, now: float) -> None:
        self._identity = identity
        self._started = now
        self._incarnation = identity.next_incarnation()
        self._version = 0
        self._beats = 0
        self._contents = NodeContents()
        self._signed_at = now
        self.name = name
        self.record: NodeRecord
        #: The record's replicas by set id.
        self.holdings: dict[str, Holding]
        self._payload: bytes
        #: Absent until somebody is told.
        self._signed: SignedNode | None = None
        self._beat: Beat | None = None
        self._left = False

    def publish(
        self, contents: NodeContents, address: str, *, reachable: bool, now: float, others: int = 0
    ) -> Said:
        """Take up what is to be said to so many `others`: it makes a new version unless it is the same."""
        contents = msgspec.structs.replace(contents, ad=contents.ad | {"Reachable": reachable})
        said = Said.ALOUD
        if self._version and self._says(address, reachable=reachable) and self._same(contents, now):
            said = Said.QUIETLY
            if not self._due(contents, now, max(PROGRESS, PROGRESS_EACH * others)):
                return Said.SAME
        self._contents = contents
        self._state(address, reachable=reachable, quiet=said is Said.QUIETLY, now=now)
        return said

    def restate(self, address: str, *, reachable: bool, now: float) -> bool:
        """Say the same contents, leases brought forward, if name, address or incarnation changed."""
        if self._version and self._says(address, reachable=reachable):
            return False
        passed = now - self._signed_at
        replicas = tuple(
            msgspec.structs.replace(
                one,
                lease_seconds_left=max(0.0, one.lease_seconds_left - passed),
                set_lease_seconds_left=max(0.0, one.set_lease_seconds_left - passed),
            )
            for one in self._contents.replicas
        )
        contents = msgspec.structs.replace(self._contents, replicas=replicas)
        return self.publish(contents, address, reachable=reachable, now=now) is Said.ALOUD

    def outlive(self, record: NodeRecord) -> bool:
        """Take a higher incarnation than a record of ours that others know; return if there is one."""
        if (record.incarnation, record.version) <= (self._incarnation, self._version):
            return False
        self._incarnation = self._identity.next_incarnation(at_least=record.incarnation + 1)
        self._version = 0
        return True

    def beat(self, *, left: bool = False) -> None:
        """Give a sign of life."""
        self._beats += 1
        self._beat, self._left = None, left

    def row(self) -> Row:
        """Return the digest row of our own record and beat."""
        return (self._identity.node_id, self._incarnation, self._version, self._beats)

    def news(self, now: float) -> tuple[SignedNode, AgedBeat]:
        """Return our own record and beat, to be told to others."""
        if self._signed is None:
            self._signed = self._identity.sign_node(self._payload)
        if self._beat is None:
            self._beat = self._identity.sign_beat(
                Beat(
                    node_id=self._identity.node_id,
                    incarnation=self._incarnation,
                    beat=self._beats,
                    left=self._left,
                    signature=b"",
                )
            )
        return msgspec.structs.replace(self._signed, age_seconds=now - self._signed_at), (self._beat, 0.0)

    def entry(self, now: float) -> NodeEntry:
        """Return this node as the directory lists it."""
        return NodeEntry(
            record=self.record,
            alive=True,
            age=0.0,
            record_age=now - self._signed_at,
            domains=self._identity.domains,
        )

    def uptime(self, now: float) -> float:
        """Return the seconds since the start."""
        return now - self._started

    def _says(self, address: str, *, reachable: bool) -> bool:
        said = (self.record.name, self.record.address, self.record.reachable)
        return said == (self.name, address, reachable)

    def _same(self, contents: NodeContents, now: float) -> bool:
        passed = now - self._signed_at
        if _lasting(contents) != _lasting(self._contents):
            return False
        return all(
            abs(new.lease_seconds_left - max(0.0, old.lease_seconds_left - passed)) < SAME_LEASE
            and abs(new.set_lease_seconds_left - max(0.0, old.set_lease_seconds_left - passed)) < SAME_LEASE
            for new, old in zip(contents.replicas, self._contents.replicas, strict=True)
        )

    def _due(self, contents: NodeContents, now: float, after: float) -> bool:
        """Tell whether replicas have begun, or got on, and that has not been told for so many seconds."""
        then, far = map(_reached, self._contents.replicas), map(_reached, contents.replicas)
        return now - self._signed_at >= after and any(new != old for new, old in zip(far, then, strict=True))

    def _state(self, address: str, *, reachable: bool, quiet: bool, now: float) -> None:
        self._version += 1
        self.record = NodeRecord(
            id=self._identity.node_id,
            name=self.name,
            address=address,
            reachable=reachable,
            incarnation=self._incarnation,
            version=self._version,
            quiet=quiet,
            uptime_seconds=self.uptime(now),
            **{field: getattr(self._contents, field) for field in NodeContents.__struct_fields__},
        )
        payload = msgspec.json.encode(self.record)
        if len(payload) > MAX_RECORD:
            self.record, payload = _shortened(self.record)
        self.holdings = {holding.set_id: holding for holding in self.record.replicas}
        self._payload, self._signed = payload, None
        self._signed_at = now
        self.beat()


def _lasting(contents: NodeContents) -> NodeContents:
    """Return contents without what changes all the time: leases, and how far replicas are on their way.

    That one begins to move is no news: who was told that it is promised deals with it as with one on its way.
    """
    replicas = tuple(
        msgspec.structs.replace(
            one,
            state="TRANSFERRING" if one.state == "REQUESTED" else one.state,
            lease_seconds_left=0.0,
            set_lease_seconds_left=0.0,
            bytes_present=0,
            bytes_per_second=0.0,
        )
        for one in contents.replicas
    )
    return msgspec.structs.replace(contents, replicas=replicas)


def _reached(one: Holding) -> tuple[str, int]:
    return one.state, one.bytes_present


def _shortened(record: NodeRecord) -> tuple[NodeRecord, bytes]:
    """Leave out replicas until the record is small enough, those that are not whole first."""
    replicas = sorted(record.replicas, key=lambda one: one.state != "COMMITTED")
    keep = len(replicas)
    payload = msgspec.json.encode(record)
    while len(payload) > MAX_RECORD and keep:
        keep = min(keep - 1, keep * MAX_RECORD // len(payload))
        record = msgspec.structs.replace(record, replicas=tuple(replicas[:keep]))
        payload = msgspec.json.encode(record)
    log.warning("this node holds too many replicas to tell of: %d of %d are", keep, len(replicas))
    return record, payload

"""What a node says of itself is signed when somebody is told, not each time that it changes."""

from __future__ import annotations

from cached.peers.own import OwnRecord, Said
from cached.peers.records import Beat, Holding, NodeContents, SignedNode
from msgspec.structs import replace


class Identity:
    node_id = "n" * 40
    domains = frozenset()

    def __init__(self) -> None:
        self.signed: list[str] = []

    def next_incarnation(self, at_least: int = 1) -> int:
        return at_least

    def sign_node(self, payload: bytes) -> SignedNode:
        self.signed.append("record")
        return SignedNode(payload=payload, certificate=b"", signature=b"s")

    def sign_beat(self, beat: Beat) -> Beat:
        self.signed.append("beat")
        return replace(beat, signature=b"s")


def said(own: OwnRecord, free: int, now: float) -> bool:
    return own.publish(NodeContents(free_bytes=free), "host:1", reachable=True, now=now) is not Said.SAME


def test_what_changes_before_anybody_is_told_costs_no_signature():
    identity = Identity()
    own = OwnRecord(identity, "a", 0.0)
    assert [said(own, free, 1.0) for free in (1, 2, 2, 3)] == [True, True, False, True]
    own.beat()
    assert identity.signed == []
    record, (beat, _) = own.news(2.0)
    assert (own.record.version, own.record.free_bytes) == (3, 3)
    assert b'"free_bytes":3' in record.payload
    assert (beat.beat, beat.left) == (own.row()[3], False)
    own.news(3.0)
    assert sorted(identity.signed) == ["beat", "record"]


def test_a_farewell_is_told_with_a_beat_of_its_own():
    identity = Identity()
    own = OwnRecord(identity, "a", 0.0)
    said(own, 1, 1.0)
    own.news(1.0)
    own.beat(left=True)
    _, (beat, _) = own.news(2.0)
    assert beat.left
    assert identity.signed == ["record", "beat", "beat"]


def test_that_a_promised_replica_begins_to_move_is_told_as_quietly_as_how_far_it_is():
    own = OwnRecord(Identity(), "a", 0.0)
    promised = Holding(set_id="s", revision=1, content="c", state="REQUESTED")

    def told(state: str, now: float, present: int = 0) -> Said:
        contents = NodeContents(replicas=(replace(promised, state=state, bytes_present=present),))
        return own.publish(contents, "host:1", reachable=True, now=now, others=1)

    assert told("REQUESTED", 0.0) is Said.ALOUD
    assert told("TRANSFERRING", 1.0) is Said.SAME
    assert told("TRANSFERRING", 11.0) is Said.QUIETLY
    assert own.record.replicas[0].state == "TRANSFERRING"
    assert told("COMMITTED", 12.0) is Said.ALOUD


def test_how_far_a_replica_is_is_told_the_less_often_the_more_nodes_hear_it():
    own = OwnRecord(Identity(), "a", 0.0)
    coming = Holding(set_id="s", revision=1, content="c", state="TRANSFERRING")

    def told(present: int, now: float) -> Said:
        contents = NodeContents(replicas=(replace(coming, bytes_present=present),))
        return own.publish(contents, "host:1", reachable=True, now=now, others=20)

    assert [told(0, 0.0), told(1, 59.0), told(2, 61.0)] == [Said.ALOUD, Said.SAME, Said.QUIETLY]

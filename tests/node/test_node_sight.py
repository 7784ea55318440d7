"""Which nodes may remember what they do not see: what the freshness window of objects is worth in a cluster that is cut."""

from __future__ import annotations

import msgspec
from cached.daemon.objects import Sight, missing
from cached.peers.records import NodeEntry


class Seen:
    """A directory of so many nodes, the first of them this one."""

    def __init__(self, *entries) -> None:
        self.entries = list(entries)
        self.looks = 0

    def nodes(self):
        self.looks += 1
        return self.entries


def node(*, alive=True, left=False, age=0.0):
    return NodeEntry(record=None, alive=alive, age=age, record_age=age, domains=frozenset(), left=left)


DEAD = node(alive=False, age=3600.0)
LEFT = msgspec.structs.replace(DEAD, left=True, age=5.0)


def test_a_node_alone_in_its_cluster_is_in_touch():
    assert Sight(Seen(node())).in_touch()
    assert Sight(Seen()).in_touch()


def test_half_of_the_nodes_are_not_most_of_them():
    assert not Sight(Seen(node(), DEAD)).in_touch()
    assert not Sight(Seen(node(), node(), DEAD, DEAD)).in_touch()
    assert Sight(Seen(node(), node(), DEAD)).in_touch()


def test_who_said_goodbye_is_not_missed():
    assert Sight(Seen(node(), LEFT, LEFT)).in_touch()
    assert not missing(Seen(node(), LEFT), 60.0)


def test_a_look_holds_for_a_moment_and_no_longer():
    now, seen = [0.0], Seen(node(), node())
    sight = Sight(seen, lambda: now[0])
    assert sight.in_touch()
    seen.entries[1] = DEAD
    assert sight.in_touch()
    assert seen.looks == 1
    now[0] = 1.0
    assert not sight.in_touch()


def test_a_node_lost_sight_of_is_missed_until_it_must_have_noticed_itself():
    assert missing(Seen(node(), node(alive=False, age=60.0)), 60.0)
    assert not missing(Seen(node(), DEAD), 60.0)
    assert not missing(Seen(node(), node(age=1.0)), 60.0)

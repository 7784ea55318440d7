"""Writers, readers and changing rights all at once, on real nodes; see `bench.objects.storm` for the long one."""

from __future__ import annotations

import math
import os

import pytest
from bench.objects import storm
from bench.objects.rights import Rights, judged

#: Together 10,000: about a minute where nothing else runs on two processors.
READS = 5_000


@pytest.mark.daemon
@pytest.mark.parametrize("window", [0, pytest.param(5, marks=pytest.mark.root)])
def test_no_read_of_a_storm_is_old_or_mixed_and_rights_hold_while_they_change(window):
    if window and os.geteuid() != 0:
        pytest.skip("each reader is to be a user of its own")
    counts = storm.run(READS, window)
    assert counts["reads"] == READS
    assert counts["refused"] > READS / 20
    assert counts["refused"] + counts["overtaken"] < READS * 3 / 4
    assert {
        what: counts[what] for what in ("stale", "mixed", "denied", "allowed", "failed")
    } == dict.fromkeys(("stale", "mixed", "denied", "allowed", "failed"), 0)


def test_a_right_is_certain_only_when_it_did_not_change_during_the_read():
    never = math.inf
    assert judged((1.0, never), (1.0, never), 2.0, 5) is True
    assert judged((1.0, never), (never, 3.0), 2.0, 5) is None
    assert judged((3.0, never), (3.0, never), 2.0, 5) is None
    assert judged((never, 1.0), (never, 1.0), 2.0, 0) is False
    assert judged((never, 1.0), (never, 1.0), 5.9, 5) is None
    assert judged((never, 1.0), (never, 1.0), 6.0, 5) is False


def test_a_right_is_uncertain_while_it_is_changed():
    rights = Rights(2, 3)
    seen = []
    rights.set(1, 2, lambda: seen.append(rights.look(1, 2)), allowed=True)
    granted, denied = rights.look(1, 2)
    assert granted < math.inf
    assert denied == math.inf
    rights.set(1, 2, lambda: seen.append(rights.look(1, 2)), allowed=False)
    assert seen == [(math.inf, math.inf)] * 2
    granted, denied = rights.look(1, 2)
    assert granted == math.inf
    assert denied < math.inf
    assert rights.look(0, 2) == (math.inf, math.inf)


def test_old_and_mixed_bytes_and_bytes_from_nowhere_are_told_from_right_ones():
    shared = storm.Shared(
        rights=Rights(1, 1), begun=[5], written=[4], left=None, counts=None, window=0, runtimes=[]
    )
    right = storm.content(0, 4)
    assert storm.faults_of(0, right, 4, shared) == []
    assert storm.faults_of(0, storm.content(0, 5), 4, shared) == []
    assert storm.faults_of(0, storm.content(0, 3), 4, shared) == ["stale"]
    assert storm.faults_of(0, storm.content(0, 6), 4, shared) == ["mixed"]
    assert storm.faults_of(0, right[:-1], 4, shared) == ["mixed"]
    assert storm.faults_of(0, right[:8000] + storm.content(0, 5)[8000:], 4, shared) == ["mixed"]
    assert storm.faults_of(0, storm.content(1, 4), 4, shared) == ["mixed"]
    assert storm.faults_of(0, b"", 4, shared) == ["mixed"]

"""Structs that threads decode at once for the first time crash the process, unless they were worked out before."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What two threads do when the first news of many nodes comes to a daemon. The types are fresh in each process.
RACE = """
import sys, threading
import msgspec
from cached import shapes
from cached.client.client import Items
from cached.peers.gossip import News
from cached.peers.records import NodeRecord

text = b'{"id":"a","name":"b","address":"c","incarnation":1,"version":2,"replicas":[]}'
if sys.argv[1] == "settled":
    shapes.settle(Items[NodeRecord])
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)

def decode():
    together.wait()
    for _ in range(5):
        msgspec.json.decode(text, type=NodeRecord)
        msgspec.json.decode(b'{"items":[' + text + b']}', type=Items[NodeRecord])
        msgspec.json.decode(b'{"beats":[]}', type=News)

threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def race(how: str) -> int:
    return subprocess.run([sys.executable, "-c", RACE, how], check=False, timeout=60).returncode


@pytest.mark.parametrize("attempt", range(8))
def test_threads_may_decode_at_once_what_was_worked_out(attempt):
    assert race("settled") == 0


def test_without_it_they_crash_sooner_or_later():
    """When this fails, msgspec has become better than its version that is locked: do without `shapes`."""
    assert any(race("fresh") for _ in range(60))

"""What a cluster of 1,000 nodes would see, computed from what one node costs: `python -m bench.projection [--json]`.

No such cluster is started. What every node does again and again whatever it carries (rounds of gossip), and what a
source does for every member (claims), runs here as the code does it, for 1,000 nodes; what a byte costs is measured by
`python -m bench.direct --only cost --json > FILE`, given with `--costs FILE`. The rest is arithmetic: all links alike,
the slower of what they carry and what one processor of a node handles.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from cached.peers.directory import Pace
from cached.peers.gossip import Question
from cached.peers.identity import Identity
from cached.peers.records import Beat
from cached.replication.partition import LEASE, ClaimTable

from bench.bound import GOODPUT
from bench.report import Figure, Row, show

_NODES: Final = 1000
_SIZE: Final = 100 * 10**9
_PIECE: Final = 1 << 20
_GIB: Final = 1 << 30
_LINKS: Final = (10, 100)


def seconds_of(work: Callable[[], object], times: int = 20) -> float:
    """Return the processor seconds that something takes once."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def gossip() -> list[Figure]:
    """Return what the rounds cost a node that knows all others, while nothing changes but the signs of life."""
    pace = Pace()
    rows = [(f"{number:064x}", 1_700_000_000_000, 5, 1000 + number) for number in range(_NODES)]
    said = msgspec.json.encode(Question(rows=rows))
    coding = seconds_of(lambda: msgspec.json.decode(msgspec.json.encode(Question(rows=rows)), type=Question))
    beat = _beat_seconds()
    # Each node asks `swaps` others in a round and is asked as often; of each node one beat comes in a round.
    processor = (2 * pace.swaps * coding + _NODES * beat) / pace.round
    return [
        Figure("a question", len(said) / 1e3, "KB"),
        Figure("a sign of life, verified", 1e6 * beat, "us"),
        Figure(
            "link that the questions take, each way",
            2 * pace.swaps * len(said) * 8 / pace.round / 1e6,
            "Mbit/s",
        ),
        Figure("processor that the rounds take", 100 * processor, "%"),
    ]


def _beat_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity.open(Path(folder) / "identity", key_file=None)
        beat = identity.sign_beat(
            Beat(node_id=identity.node_id, incarnation=1, beat=1, left=False, signature=b"")
        )
        return seconds_of(lambda: identity.verify_beat(beat, identity.certificate), 200)


def claims() -> list[Figure]:
    """Return what the claims of a large set cost its source when everybody fetches it at once."""
    pieces = _SIZE // _PIECE
    desk, everything, share = ClaimTable(pieces), (1 << pieces) - 1, pieces // _NODES
    for number in range(_NODES):
        desk.claim(f"{number}", wanted=everything, pending=0, count=share // 2, stalled=False, now=0.0)
    one = seconds_of(lambda: desk.claim("7", wanted=everything, pending=0, count=4, stalled=False, now=1.0))
    return [
        Figure("one claim", 1e3 * one, "ms"),
        Figure("processor for each member's one claim a second", 100 * one * _NODES, "%"),
        Figure("members that one processor serves within a lease", LEASE / one),
    ]


def transfers(costs: dict[str, Any]) -> dict[str, Row]:
    """Return how long 100 GB take to be on all nodes, for what a byte costs by each method."""
    rows: dict[str, Row] = {}
    for name, row in costs["rows"].items():
        if not name.startswith("cost, bittorrent"):
            continue
        figures = {one["what"]: one["value"] for one in row["figures"]}
        source, receiver = figures["CPU of the source"], figures["CPU of the receiver"]
        # A member takes everything once, and passes on as much as it takes.
        busy = _SIZE / _GIB * (source + receiver)
        found = []
        for link in _LINKS:
            carried = _SIZE * 8 / (link * 1e9 * GOODPUT) * max(1, _NODES / (_NODES + 1))
            found += [
                Figure(f"{link} GbE: what the links allow", carried, "s"),
                Figure(f"{link} GbE: with one processor", max(carried, busy), "s"),
                Figure(f"{link} GbE: processors that fill the link", busy / carried),
            ]
        rows[f"100 GB to 1,000 nodes, {name.removeprefix('cost, ')}"] = ({}, found)
    return rows


def main() -> None:
    """Compute; print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.projection", description=__doc__)
    parser.add_argument("--costs", type=Path, metavar="FILE", help="JSON of `bench.direct --only cost`")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    load_before = list(os.getloadavg())
    rows: dict[str, Row] = {
        "gossip among 1,000 nodes": ({}, gossip()),
        "claims of 1,000 members, 100 GB in pieces of 1 MiB": ({}, claims()),
    }
    if asked.costs:
        rows |= transfers(json.loads(asked.costs.read_text()))
    show(rows, load_before, as_json=asked.json)


if __name__ == "__main__":
    main()

"""What it costs when one of many ads changes: `python -m bench.matching [--sets 1000] [--nodes 1000] [--json]`.

A daemon in this process holds so many sets, to be copied everywhere, and its directory tells of so many other nodes.
One of them says something new; what the node does then is measured, in its own process and in the child that
evaluates, up to the point where sets would be offered. Beside it the matchmaker alone, with as many pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached import administration
from cached.daemon.daemon import Daemon
from cached.matching.ads import NodeFacts, node_ad
from cached.matchmaker.pool import Matchmaker
from cached.node import consent, drive
from cached.node.node import Node
from cached.peers.records import Beat, Holding, NodeRecord, Peer, SignedNode
from cached.sets.set import SetRecord

from bench.report import Figure, Row, show
from bench.restart import CONFIG, committed, made

#: Most that one change may cost, in milliseconds of processor time in both processes.
TARGET = 35.0


@dataclass
class Cost:
    """Milliseconds of processor time."""

    node: float
    child: float

    @property
    def both(self) -> float:
        """In both processes."""
        return self.node + self.child


def used(pid: int) -> float:
    """Return the milliseconds that a process has run (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


async def cost(matchmaker: Matchmaker, work: Callable[[], Awaitable[Any]]) -> Cost:
    """Return what a piece of work costs."""
    await matchmaker.start()
    assert matchmaker.pid is not None
    child, own = used(matchmaker.pid), time.process_time()
    await work()
    return Cost((time.process_time() - own) * 1e3, used(matchmaker.pid) - child)


class Crowd:
    """The other nodes of a cluster, as the directory of `node` is told of them; nobody is behind them."""

    def __init__(self, node: Node, count: int) -> None:
        self._members = node.directory._members
        self._version = 0
        self.names = [f"{number:040x}" for number in range(1, count + 1)]
        for name in self.names:
            self.say(name)

    def say(self, name: str, *, disk: int = 10**15, holding: list[SetRecord] | None = None) -> None:
        """Have a node say how much space it has, and what it holds."""
        self._version += 1
        facts = NodeFacts(
            node_id=name,
            name=name[-6:],
            machine=name[-6:],
            total_disk_bytes=disk,
            capacity_bytes=10**16,
            memory_bytes=64 << 30,
            cpus=32,
            arch="x86_64",
            opsys="Linux",
            user="root",
        )
        record = NodeRecord(
            id=name,
            name=name[-6:],
            address="127.0.0.1:1",
            incarnation=1,
            version=self._version,
            ad=node_ad(facts),
            replicas=tuple(
                Holding(set_id=one.id, revision=1, content=one.content, state="COMMITTED")
                for one in holding or ()
            ),
        )
        now = asyncio.get_running_loop().time()
        unsigned = SignedNode(payload=b"", certificate=b"", signature=b"")
        self._members.put(unsigned, record, Peer(node_id=name, domains=frozenset({""})), now)
        beat = Beat(node_id=name, incarnation=1, beat=self._version, left=False, signature=b"")
        self._members.put_beat(beat, 0.0, now)


async def measure(root: Path, sets: int, nodes: int, runs: int) -> dict[str, list[Cost]]:
    """Return the costs of each kind of change, for each run."""
    (root / "config.toml").write_text(CONFIG.format(root=root))
    administration.cluster_init(root / "cluster.key")
    daemon = Daemon(administration.load(root / "config.toml", "", {}))
    found: dict[str, list[Cost]] = {"agrees": [], "holds": [], "alone": []}
    try:
        await daemon.start()
        node = daemon.node
        assert node is not None
        for task in daemon._background:  # nothing else is to run in this process
            task.cancel()
        await node.directory.close()
        mine = [made(node, number, 1 << 20, replicas=-1) for number in range(sets)]
        await node.shelf.keep(committed(mine, node.now().boot_id))
        records = [one.record for one in mine]
        crowd = Crowd(node, nodes)
        node.counted = dict.fromkeys(node.shelf.known, 0)  # all have been looked after, as regards the others
        crowd.say(crowd.names[-1], holding=records)
        for run in range(runs + 1):
            for kind, moved, holding in (
                ("agrees", crowd.names[run], None),
                ("holds", crowd.names[-1], records),
            ):
                crowd.say(moved, disk=10**15 - run * 10**14, holding=holding)
                spent = await cost(
                    node.matchmaker, lambda moved=moved: drive.agreeing(node, frozenset({moved}))
                )
                found[kind].append(spent)
            ads = [consent.ad_of(node, known) for known in node.shelf.known.values()]
            entry = node.directory.node(crowd.names[run])
            assert entry is not None
            changed = entry.record.ad | {"Bench": run}
            found["alone"].append(
                await cost(
                    node.matchmaker,
                    lambda ads=ads, changed=changed: node.matchmaker.match([(ad, changed) for ad in ads]),
                )
            )
    finally:
        await daemon.stop()
    return {kind: costs[1:] for kind, costs in found.items()}  # the child has met the sets' ads by then


def figures(costs: list[Cost], target: float | None) -> list[Figure]:
    """Return the medians."""
    return [
        Figure("processor time, both processes", statistics.median(one.both for one in costs), "ms", target),
        Figure("of the node", statistics.median(one.node for one in costs), "ms"),
        Figure("of the child", statistics.median(one.child for one in costs), "ms"),
    ]


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    load = list(os.getloadavg())
    with tempfile.TemporaryDirectory(prefix="cached-bench-") as root:
        found = asyncio.run(measure(Path(root), asked.sets, asked.nodes, asked.runs))
    parameters = {"sets": asked.sets, "nodes": asked.nodes, "runs": asked.runs}
    titles = {
        "agrees": "one node's ad changes, and agrees with every set",
        "holds": "one node's ad changes, and it holds every set",
        "alone": "the matchmaker alone: every set with one changed ad",
    }
    rows: dict[str, Row] = {
        titles[kind]: (parameters, figures(costs, TARGET)) for kind, costs in found.items()
    }
    show(rows, load, ("htcondor",), as_json=asked.json)


if __name__ == "__main__":
    main()

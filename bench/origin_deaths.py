"""How soon the others read what a reader of a set in Cloud Storage had claimed when it died (`bench.origin_sets`).

All nodes read. In the middle one is killed, or stopped so that its connections stay open and silent; it is either the
node that keeps the table of who reads what, or another one. The fake says when each range was asked for: the dead
reader's claimed and unfinished share are the ranges that were under way at its death and are asked for once more.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cached.node.pool import READING
from cached.replication.placement import rendezvous
from tests.gcs.remote import RemoteFake

from bench.cluster import Cluster, Node
from bench.report import Figure

#: How many nodes read, for how many seconds if nobody died, and what part of the bytes has come when one of them does.
NODES = 4
_LASTS = 8
_PART = 0.25
#: Seconds that those who live get to have all of it.
_PATIENCE = 150.0
#: Seconds within which the share of a dead reader is to be taken over.
_PROMISE = 5.0

Range = tuple[str, str, str | None]


@dataclass(frozen=True)
class Death:
    """Who dies, and by which signal."""

    keeper: bool
    signal: signal.Signals


#: By the name of the row.
DEATHS = {
    "killed": Death(keeper=False, signal=signal.SIGKILL),
    "stopped": Death(keeper=False, signal=signal.SIGSTOP),
    "keeper-killed": Death(keeper=True, signal=signal.SIGKILL),
    "keeper-stopped": Death(keeper=True, signal=signal.SIGSTOP),
}


def taken_over(
    ranges: Iterable[Range], times: Iterable[tuple[float, float | None]], death: float
) -> dict[Range, float]:
    """Return the ranges under way at the death that were asked for again, and how many seconds after it first."""
    open_then: set[Range] = set()
    again: dict[Range, float] = {}
    for asked, (began, ended) in zip(ranges, times, strict=True):
        if began <= death and (ended is None or ended > death):
            open_then.add(asked)
        elif began > death and asked in open_then:
            again.setdefault(asked, began - death)
    return again


def measure(cluster: Cluster, fake: RemoteFake, base: str, size: int, death: Death) -> list[Figure]:
    """Return the figures of one death; the set is kept below `base` and nowhere else, and all nodes may read."""
    fake.reset_counters()
    fake.limit_streams(size // (NODES * READING * _LASTS))
    made = cluster.nodes[0].json("create", "nr", "--from-set", f"gs://data/{base}", "--replicas", "all")
    victim = _victim(cluster, made["content"], death)
    cluster.wait_for(
        lambda: fake.bytes_out > _PART * size and _reads(victim), "bytes that the victim has read", _PATIENCE
    )
    victim.signal(death.signal)
    when = time.monotonic()
    others = [node for node in cluster.nodes if node is not victim]
    until = when + _PATIENCE
    while time.monotonic() < until and not all(node.has("nr") for node in others):
        time.sleep(0.1)
    fake.limit_streams(None)
    finished = sum(node.has("nr") for node in others)
    again = taken_over(fake.media, fake.times, when)
    if not again:
        raise SystemExit(f"nothing was under way when {victim.name} died: give a larger --size")
    return [
        Figure(
            "from the death to the first range of its share asked for again",
            min(again.values()),
            "s",
            _PROMISE,
        ),
        Figure("to the last one", max(again.values()), "s", _PROMISE),
        Figure("ranges of its share", len(again)),
        Figure("others that have all of it", finished, "", len(others), "=="),
        Figure("until they have it", time.monotonic() - when, "s"),
        Figure("bytes read, of the set's", fake.bytes_out / size, "x"),
    ]


def _victim(cluster: Cluster, content: str, death: Death) -> Node:
    with contextlib.closing(cluster.nodes[0].client()) as client:
        ids = {node.id: node.name for node in client.nodes()}
    order = [ids[one] for one in rendezvous(content, ids)]
    name = order[0] if death.keeper else order[1]
    return next(node for node in cluster.nodes if node.name == name)


def _reads(node: Node) -> bool:
    with contextlib.closing(node.client()) as client:
        return bool(client.status()["counters"].get("origin.set_bytes_read"))

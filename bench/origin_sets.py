"""How often N nodes read a set from Cloud Storage that no node has, and how fast they are together.

    python -m bench.origin_sets [--nodes 1,2,4,8] [--size 64MiB] [--stream 2MB] [--readers 4] [--json]

Real daemons and a fake of Cloud Storage on this machine, which lets each connection have `--stream` bytes a second and
all of them together as much as they like. A set is kept in the origin and nowhere else, made again with `--from-set` on
the first node, and wanted by all.

read      bytes that the origin gave, divided by the set's; what describes the set is not counted
readers   nodes that read any of it
seconds   from the command until every node holds the set, verified and committed
joint     bytes of the set a second that came from the origin, while they came
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from typing import Any

from cached.units import parse_size
from tests.gcs.remote import RemoteFake, fake_process

from bench.cluster import Cluster, Node, clustered

_FILES = 16
_PATIENCE = 600.0


class Coming:
    """The time in which bytes of the set came from the origin."""

    def __init__(self, start: int) -> None:
        self._start = self._before = start
        self._first = self._last = 0.0

    def look(self, given: int) -> None:
        """Take in how many bytes the origin has given so far."""
        if given > self._before:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self._before = given

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return (self._before - self._start) / max(self._last - self._first, 0.05)


def measure(count: int, size: int, stream: int, readers: int, fake: RemoteFake) -> dict[str, float]:
    """Return the figures for so many nodes."""
    with clustered(count, capacity=4 * size + (1 << 30)) as cluster:
        base = f"out-{count}"
        _keep(cluster, size, base)
        described = sum(
            len(fake.get("data", name)) for name in fake.names("data") if f"{base}/.cached/" in name
        )
        fake.limit_streams(stream)
        before, began = fake.bytes_out, time.monotonic()
        coming = Coming(before + described)
        cluster.nodes[0].json("create", "nr", "--from-set", f"gs://data/{base}", "--replicas", "all")
        while not all(_has(node) for node in cluster.nodes):
            if time.monotonic() - began > _PATIENCE:
                raise SystemExit("\n".join(node.log for node in cluster.nodes))
            coming.look(fake.bytes_out)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        fake.limit_streams(None)
        read = fake.bytes_out - before - described
        took = sum(
            bool(node.json("status")["counters"].get("origin.set_bytes_read")) for node in cluster.nodes
        )
    return {"read": read / size, "readers": took, "seconds": seconds, "joint": coming.rate / 1e6}


def _keep(cluster: Cluster, size: int, base: str) -> None:
    folder, chance = cluster.root / "data", random.Random(size)
    folder.mkdir()
    for number in range(_FILES):
        (folder / str(number)).write_bytes(chance.randbytes(size // _FILES))
    first = cluster.nodes[0]
    first.json("create", "seed", str(folder), "--origin", f"gs://data/{base}", "--replicas", "0")
    first.json("delete", "seed", "--everywhere")
    while any((first.root / "disk" / "contents").iterdir()):
        time.sleep(0.1)


def _has(node: Node) -> bool:
    sets = node.json("list", "--local")["items"]
    return any(
        one["node"] == node.name and one["state"] == "COMMITTED" for item in sets for one in item["replicas"]
    )


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="1,2,4,8")
    parser.add_argument("--size", default="64MiB")
    parser.add_argument("--stream", default="2MB")
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    size, stream = parse_size(asked.size), parse_size(asked.stream)
    rows: list[dict[str, Any]] = []
    with fake_process() as fake:
        fake.bucket("data")
        os.environ |= {
            "CACHED_ORIGIN_BUCKETS": "data=*",
            "CACHED_ORIGIN_ENDPOINT": fake.url,
            "CACHED_ORIGIN_READERS": str(asked.readers),
        }
        for count in map(int, asked.nodes.split(",")):
            rows.append({"nodes": count, **measure(count, size, stream, asked.readers, fake)})
            if not asked.json:
                row = rows[-1]
                print(
                    f"N={count:<3} read {row['read']:.3f} x   readers {row['readers']}   "
                    f"{row['seconds']:6.1f} s   joint {row['joint']:6.1f} MB/s",
                    flush=True,
                )
    if asked.json:
        print(json.dumps({"size": size, "stream": stream, "readers": asked.readers, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()

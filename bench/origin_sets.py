"""How often N nodes read a set from Cloud Storage that no node has, how fast they are together, and what a death costs.

    python -m bench.origin_sets [--nodes 1,2,4,8] [--deaths killed,stopped,keeper-killed,keeper-stopped]
                                [--size 64MiB] [--stream 1MB] [--readers 4] [--json]

Real daemons and a fake of Cloud Storage on this machine, which lets each connection have `--stream` bytes a second and
all of them together as much as they like. A set is kept in the origin and nowhere else, made again with `--from-set` on
the first node, and wanted by all. `--nodes ''` or `--deaths ''` leaves these rows out.

read      bytes that the origin gave, divided by the set's; what describes the set is not counted
readers   nodes that read any of it
joint     bytes of the set a second that came from the origin, while they came; the table compares it with what the
          readers of the row before had
deaths    `bench.origin_deaths`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time

from tests.gcs.remote import RemoteFake, fake_process

from bench import origin_deaths
from bench.arguments import size as size_of
from bench.cluster import Cluster, clustered, write_files
from bench.report import Figure, Row, document, table

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


def measure(cluster: Cluster, fake: RemoteFake, base: str, size: int) -> dict[str, float]:
    """Return the figures of all nodes of a cluster that want the set kept below `base`."""
    described = sum(len(fake.get("data", name)) for name in fake.names("data") if f"{base}/.cached/" in name)
    before, began = fake.bytes_out, time.monotonic()
    coming = Coming(before + described)
    cluster.nodes[0].json("create", "nr", "--from-set", f"gs://data/{base}", "--replicas", "all")
    while not all(node.has("nr") for node in cluster.nodes):
        if time.monotonic() - began > _PATIENCE:
            raise SystemExit("\n".join(node.log for node in cluster.nodes))
        coming.look(fake.bytes_out)
        time.sleep(0.05)
    seconds = time.monotonic() - began
    read = fake.bytes_out - before - described
    readers = sum(
        bool(node.json("status")["counters"].get("origin.set_bytes_read")) for node in cluster.nodes
    )
    return {"read": read / size, "readers": readers, "seconds": seconds, "joint": coming.rate / 1e6}


def figures(found: dict[str, float], readers: int, before: dict[str, float] | None) -> list[Figure]:
    """Return what is shown of a row; `readers` may read at once, `before` is the row with fewer nodes."""
    shown = [
        Figure("bytes read from the origin, of the set's", found["read"], "x", 1.02),
        Figure("nodes that read", found["readers"], "", readers),
        Figure("until every node has it", found["seconds"], "s"),
        Figure("joint speed of the origin's bytes", found["joint"], "MB/s"),
    ]
    if before is not None and found["readers"] > before["readers"]:
        times = found["joint"] / before["joint"]
        shown.append(Figure("of the speed with fewer readers", times, "x", 1.0, ">="))
    return shown


def keep(cluster: Cluster, size: int, base: str) -> None:
    """Have a set kept in the origin and nowhere else."""
    write_files(cluster.root / "data", size, _FILES)
    first = cluster.nodes[0]
    folder = str(cluster.root / "data")
    first.json("create", "seed", folder, "--origin", f"gs://data/{base}", "--replicas", "0")
    first.json("delete", "seed", "--everywhere")
    cluster.wait_for(lambda: not any((first.root / "disk" / "contents").iterdir()), "the seed to be gone")


def rows_of(asked: argparse.Namespace, fake: RemoteFake) -> dict[str, Row]:
    """Measure what was asked for, and say so on the way unless it is to be JSON."""
    size, stream = asked.size, asked.stream
    parameters = {"size": size, "stream": stream, "readers": asked.readers}
    rows: dict[str, Row] = {}
    before = None

    def took(name: str, found: list[Figure]) -> None:
        rows[name] = (parameters, found)
        if not asked.json:
            print(table(name, found), flush=True)

    for count in map(int, filter(None, asked.nodes.split(","))):
        with clustered(count, capacity=4 * size + (1 << 30)) as cluster:
            keep(cluster, size, f"out-{count}")
            fake.limit_streams(stream)
            found = measure(cluster, fake, f"out-{count}", size)
            fake.limit_streams(None)
        took(f"N = {count}", figures(found, asked.readers, before))
        before = found
    for name in filter(None, asked.deaths.split(",")):
        with clustered(origin_deaths.NODES, capacity=4 * size + (1 << 30)) as cluster:
            keep(cluster, size, name)
            took(name, origin_deaths.measure(cluster, fake, name, size, origin_deaths.DEATHS[name]))
    return rows


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="1,2,4,8")
    parser.add_argument("--deaths", default=",".join(origin_deaths.DEATHS))
    parser.add_argument("--size", type=size_of, default="64MiB")
    parser.add_argument("--stream", type=size_of, default="1MB")
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load = list(os.getloadavg())
    with fake_process() as fake:
        fake.bucket("data")
        os.environ |= {
            "CACHED_ORIGIN_BUCKETS": "data=*",
            "CACHED_ORIGIN_ENDPOINT": fake.url,
            "CACHED_ORIGIN_READERS": str(asked.readers),
        }
        rows = rows_of(asked, fake)
    if asked.json:
        json.dump(document(rows, load, ("google-cloud-storage",)), sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()

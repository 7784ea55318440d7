"""What it costs to make large files a set, beside `sha256sum`, `cp` and `sync` of the same files.

    python -m bench.create [--size 2GB] [--files 4] [--rounds 3] [--dir DIR] [--json]

By turns, on one file system: the files hashed by `sha256sum`, copied by `cp --reflink=never`, and synced; and
`cached create` of them, which is the copy, the hashes and the sync in one. The files are in the page cache for both.
While a set is created, one client opens a file of another set on `data.sock` all the time, and another one asks for
that set on `api.sock`: reads that commit nothing. Figures are medians of the rounds, waits the 99th percentile of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.arguments import size as size_of
from bench.asking import Again, Memory
from bench.cluster import Cluster, clustered, write_files
from bench.report import Figure, Row, document, medians, table

#: Seconds between two questions of one client.
ASK: Final = 0.005


def rival(data: Path, goal: Path) -> dict[str, float]:
    """Return the seconds that hashing, copying and syncing take, one after the other."""
    files = [str(path) for path in sorted(data.iterdir())]
    steps = {
        "sha256sum": ["sha256sum", *files],
        "cp": ["cp", "-r", "--reflink=never", str(data), str(goal)],
        "sync": ["sync", "-f", str(goal.parent)],
    }
    taken = {}
    for name, command in steps.items():
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken[name] = time.perf_counter() - began
    shutil.rmtree(goal)
    return taken


def create(cluster: Cluster, data: Path) -> dict[str, float]:
    """Return what a creation takes, what others wait meanwhile, and what the daemon has of memory and processor."""
    [node] = cluster.nodes
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(contextlib.closing(node.client()))
        looker = stack.enter_context(contextlib.closing(node.client()))

        def read() -> None:
            reader.open("small/000000").close()

        opens = stack.enter_context(Again(read, ASK))
        shows = stack.enter_context(Again(lambda: looker.show("small"), ASK))
        memory = stack.enter_context(Memory(node))
        cpu, began = node.cpu(), time.perf_counter()
        node.json("create", "large", str(data), "--replicas", "0")
        seconds = time.perf_counter() - began
        cpu = node.cpu() - cpu
    node.json("delete", "large")
    cluster.wait_for(lambda: not any((node.root / "disk" / "trash").iterdir()), "an empty trash")
    return {
        "seconds": seconds,
        "cpu": cpu,
        "open": 1000 * opens.quantile(0.99),
        "show": 1000 * shows.quantile(0.99),
        "memory": memory.most / 1e6,
    }


def measure(cluster: Cluster, size: int, files: int, rounds: int) -> list[Figure]:
    """Return the figures of so many rounds."""
    root = cluster.root
    write_files(root / "data", size, files)
    write_files(root / "small", 4096, 1)
    cluster.nodes[0].json("create", "small", str(root / "small"), "--replicas", "0")
    theirs, ours, ratios = [], [], []
    for _ in range(rounds):
        for found, run in ((theirs, _rival), (ours, create)):
            os.sync()
            found.append(run(cluster, root / "data"))
        ratios.append({"ratio": sum(theirs[-1].values()) / ours[-1]["seconds"]})
    before, now = medians(theirs), medians(ours)
    return [
        *(Figure(name, before[name], "s") for name in before),
        Figure("create", now["seconds"], "s"),
        Figure("speed of create, of sha256sum + cp + sync", medians(ratios)["ratio"], "x", 1.2, ">="),
        Figure("open on data.sock meanwhile, 99th percentile", now["open"], "ms", 5.0),
        Figure("show on api.sock meanwhile, 99th percentile", now["show"], "ms", 5.0),
        Figure("memory of the daemon (RssAnon), the most", now["memory"], "MB", 250.0),
        Figure("processor of the daemon", now["cpu"], "s"),
    ]


def _rival(cluster: Cluster, data: Path) -> dict[str, float]:
    return rival(data, cluster.root / "copy")


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=size_of, default="2GB")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where to work (default: the usual place of temporary files)")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load, size = os.getloadavg(), asked.size
    with clustered(1, capacity=2 * size + (1 << 30), folder=asked.dir) as cluster:
        figures = measure(cluster, size, asked.files, asked.rounds)
    name = f"{size / 1e9:g} GB in {asked.files} files"
    rows: dict[str, Row] = {name: ({"size": size, "files": asked.files, "rounds": asked.rounds}, figures)}
    if asked.json:
        print(json.dumps(document(rows, load, programs=("sha256sum", "cp"))))
        return
    print(table(name, figures))


if __name__ == "__main__":
    sys.exit(main())

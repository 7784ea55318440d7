"""What a set of very many small files costs, beside `tar x` and `sync` of the same files.

    python -m bench.small_files [--files 100000] [--size 4096] [--dir DIR] [--json]

Files of 4 KiB, a thousand in a directory. In one run, on one file system: the archive unpacked and synced, before
everything else and after it; the set created; brought to a second daemon by the direct method, and to a third by
BitTorrent; listed, verified, deleted. Each ratio is the faster of the two `tar x` + `sync` divided by the seconds: 1.0
is as fast as tar. Nothing is deleted before the end, because ext4 creates files slowly for five minutes after very many
were deleted (it does not reuse their inodes at once): what ran in those minutes before this program counts as well.

longest wait   of somebody who asks the daemon for its sets twenty times a second meanwhile, in milliseconds
memory         the most that the daemon has of memory of its own (RssAnon), in MB
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.asking import Again, Memory
from bench.cluster import Cluster, Node, clustered
from bench.report import Figure, Row, document, table

_FOLDER: Final = 1000
#: Seconds between two questions to a daemon.
_ASK: Final = 0.05
#: What each method is to reach of the speed of tar.
_TARGETS: Final = {"create": 0.8, "direct": 0.8, "bittorrent": None}


def write_files(top: Path, files: int, size: int) -> None:
    """Write so many files of so many bytes."""
    chance = random.Random(files)
    for number in range(files):
        folder = top / f"{number // _FOLDER:04d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number % _FOLDER:04d}").write_bytes(chance.randbytes(size))


def unpack(archive: Path, goal: Path) -> float:
    """Return the seconds that `tar x` and `sync` take."""
    goal.mkdir()
    _sync(goal)
    began = time.perf_counter()
    subprocess.run(["tar", "xf", str(archive), "-C", str(goal)], check=True)
    _sync(goal)
    return time.perf_counter() - began


def _sync(place: Path) -> None:
    subprocess.run(["sync", "-f", str(place)], check=True)


class Steps:
    """What is measured, one after the other."""

    def __init__(self, cluster: Cluster, files: int, size: int) -> None:
        self._cluster = cluster
        self._data = cluster.root / "data"
        self._files, self._size = files, size
        #: By step: seconds, and figures that explain them.
        self._taken: dict[str, float] = {}
        self._more: dict[str, list[Figure]] = {}

    def run(self) -> dict[str, Row]:
        """Return all rows."""
        root = self._cluster.root
        write_files(self._data, self._files, self._size)
        archive = root / "archive.tar"
        subprocess.run(["tar", "cf", str(archive), "-C", str(self._data), "."], check=True)
        before = unpack(archive, root / "unpacked")
        source, direct, torrent = self._cluster.nodes
        create = ["create", "small", str(self._data), "--replicas", "0"]
        self._step("create", [source], lambda: source.json(*create))
        for method, node in (("direct", direct), ("bittorrent", torrent)):
            source.json("update", "small", "--methods", method)
            replicate = ["replicate", "small", "--to", node.name, "--wait"]
            self._step(method, [source, node], lambda words=replicate: source.json(*words))  # type: ignore[misc]
        self._step("list", [source], lambda: source.json("files", "small"))
        self._step("verify", [torrent], lambda: torrent.json("verify", "small"))
        after = unpack(archive, root / "unpacked again")
        self._step("delete", [source], lambda: source.json("delete", "small"))
        tar = [Figure("before", before, "s"), Figure("after", after, "s")]
        return {"tar x + sync": ({}, tar)} | {
            name: self._row(name, min(before, after)) for name in self._taken
        }

    def _row(self, name: str, tar: float) -> Row:
        taken, figures = self._taken[name], []
        if name in _TARGETS:
            figures = [Figure("speed, of tar x + sync", tar / taken, "x", _TARGETS[name], ">=")]
        says = {"files": self._files, "size": self._size}
        return says, [Figure("seconds", taken, "s"), *figures, *self._more[name]]

    def _step(self, name: str, nodes: list[Node], work: Callable[[], object]) -> None:
        _sync(self._cluster.root)
        cpu = sum(node.cpu() for node in nodes)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(node.client())) for node in nodes]
            asking = [stack.enter_context(Again(partial(one.list, local=True), _ASK)) for one in clients]
            memory = [stack.enter_context(Memory(node)) for node in nodes]
            began = time.perf_counter()
            work()
            taken = time.perf_counter() - began
        print(f"{name}: {taken:.1f} s", file=sys.stderr)
        self._taken[name] = taken
        self._more[name] = [
            Figure("processor of the daemons", sum(node.cpu() for node in nodes) - cpu, "s"),
            Figure("longest wait", 1000 * max(one.quantile(1.0) for one in asking), "ms"),
            Figure("memory", max(one.most for one in memory) / 1e6, "MB", 250.0),
        ]


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=4096, help="bytes of each")
    parser.add_argument("--dir", help="where to work (default: the usual place of temporary files)")
    parser.add_argument("--keep-logs", metavar="DIR", help="copy the daemons' logs there")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load, capacity = os.getloadavg(), (1 << 30) + asked.files * (asked.size + (64 << 10))
    with clustered(3, capacity=capacity, folder=asked.dir) as cluster:
        try:
            rows = Steps(cluster, asked.files, asked.size).run()
        finally:
            if asked.keep_logs:
                cluster.keep_logs(asked.keep_logs)
    if asked.json:
        print(json.dumps(document(rows, load, ("libtorrent",), ("tar",))))
        return
    for name, (_, figures) in rows.items():
        print(table(name, figures))


if __name__ == "__main__":
    sys.exit(main())

"""How the cost of a set grows: with the bytes, with the files, with the nodes that want it.

    python -m bench.growth [--only bytes|files|nodes] [--json] [--plots docs/plots]

bytes   one file of 1 MB to 1 GB, made and brought to a second node on this machine
files   1 to 30,000 files of 4 KB, likewise
nodes   16 MiB brought to 1 to 16 nodes at once, each behind a link of 20 Mbit/s (needs root)

Real daemons. Seconds are of one run and of this machine; how they grow says more. With `--plots` each row becomes a
picture in that directory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.cluster import Cluster, clustered, remove, write_files
from bench.report import Figure, Row, show
from bench.swarm.run import Setting, measure

_BYTES: Final = (10**6, 10**7, 10**8, 10**9)
_FILES: Final = (1, 10, 100, 1_000, 10_000, 30_000)
_NODES: Final = (1, 2, 4, 8, 16)
_SMALL: Final = 4096
_SHARED: Final = Setting(receivers=1, size=16 << 20, rate=20.0, source_rate=20.0)


def made_and_moved(cluster: Cluster, name: str, size: int, files: int) -> tuple[float, float]:
    """Return the seconds that a set of so many bytes and files takes to be made, and to come to a second node."""
    data = cluster.root / name
    write_files(data, size, files)
    with contextlib.closing(cluster.nodes[0].client()) as client:
        began = time.perf_counter()
        client.create(name, [data], replicas=0)
        made = time.perf_counter()
        client.replicate(name, to=[cluster.nodes[1].name], wait=True)
        moved = time.perf_counter()
        client.delete(name, everywhere=True)
    remove(data)
    return made - began, moved - made


def by_bytes() -> list[Figure]:
    """Return what one file costs, at several sizes."""
    with clustered(2, capacity=4 * max(_BYTES)) as cluster:
        return [
            figure
            for size in _BYTES
            for figure in _pair(f"{size / 1e6:g} MB", *made_and_moved(cluster, f"b{size}", size, 1))
        ]


def by_files() -> list[Figure]:
    """Return what many files of 4 KB cost, for several numbers of them."""
    with clustered(2, capacity=64 * _SMALL * max(_FILES) + (1 << 30)) as cluster:
        return [
            figure
            for files in _FILES
            for figure in _pair(f"{files}", *made_and_moved(cluster, f"f{files}", files * _SMALL, files))
        ]


def by_nodes() -> list[Figure]:
    """Return what one set costs that several nodes want at once."""
    found = []
    for nodes in _NODES:
        run = measure(Setting(**{**vars(_SHARED), "receivers": nodes}))
        found += [
            Figure(f"{nodes}: times bound", run["times bound"], "x"),
            Figure(f"{nodes}: copies", run["copies"], "x"),
            Figure(f"{nodes}: processor", run["cpu"], "s/GiB"),
        ]
    return found


def _pair(what: str, made: float, moved: float) -> list[Figure]:
    return [Figure(f"{what}: create", made, "s"), Figure(f"{what}: replicate", moved, "s")]


ROWS: Final[dict[str, Callable[[], list[Figure]]]] = {"bytes": by_bytes, "files": by_files, "nodes": by_nodes}


def main() -> None:
    """Measure, draw if asked to, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=ROWS)
    parser.add_argument("--plots", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    load = list(os.getloadavg())
    rows: dict[str, Row] = {}
    for name, work in ROWS.items():
        if asked.only in (None, name) and not (name == "nodes" and os.geteuid()):
            rows[name] = ({}, work())
    if asked.plots:
        from bench.plots import draw

        draw(rows, asked.plots)
    show(rows, load, ("libtorrent",), as_json=asked.json)


if __name__ == "__main__":
    main()

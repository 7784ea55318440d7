"""What a set costs that has most of its files in common with one that its owner holds already.

    python -m bench.sharing [--size 300MB] [--files 1000] [--share 0.9] [--only direct|bittorrent] [--json]

Two real daemons, anew for each method. A first set is created on one and brought to the other; then a second one, which
has that share of the first one's files under other names and as many new ones instead, is created and brought there.

moved      payload bytes of the second set that the receiver got, beside those of its new files
du         what the program of that name counts below the receiver's `contents` once both sets are there
counted    what the receiver's `status` says it has committed
once       all different files of both sets, each counted once
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.arguments import size as size_of
from bench.cluster import Node, clustered, write_files
from bench.report import Figure, Row, document, table

METHODS: Final = ("direct", "bittorrent")


def measure(method: str, size: int, files: int, share: float) -> list[Figure]:
    """Return the figures of one method."""
    with clustered(2, capacity=4 * size + (1 << 30)) as cluster:
        source, receiver = cluster.nodes
        first, second = cluster.root / "first", cluster.root / "second"
        write_files(first, size, files)
        new = _next_version(first, second, round(files * share))
        took = {
            "create the first": _timed(source, "create", "first", str(first), "--replicas", "1", "--wait"),
            "create the second": _timed(
                source, "create", "second", str(second), "--replicas", "0", "--methods", method
            ),
            "replicate the second": _timed(source, "replicate", "second", "--replicas", "1", "--wait"),
        }
        content = source.json("show", "second")["content"]
        moved = next(one for one in receiver.json("status")["traffic"] if one["content"] == content)
        counted = receiver.json("status")["tiers"]["disk"]["committed_bytes"]
        du, once = _du(receiver), size + new
        return [
            Figure("bytes moved, of the new ones", moved["bytes_received"] / new, "x", 1.02),
            Figure("du, of all files once", du / once, "x", 1.02),
            Figure("counted, of du", counted / du, "x", 1.05),
            Figure("du, of what is counted", du / counted, "x", 1.0),
            Figure("both sets by their sizes, of du", 2 * size / du, "x"),
            Figure("new bytes", new / 1e6, "MB"),
            *(Figure(what, seconds, "s") for what, seconds in took.items()),
            Figure("verify the second", _timed(receiver, "verify", "second"), "s"),
        ]


def _next_version(first: Path, second: Path, kept: int) -> int:
    """Copy so many files under other names, and put new ones in the place of the rest; return the bytes of these."""
    second.mkdir()
    new = 0
    for number, path in enumerate(sorted(first.iterdir())):
        goal = second / f"{path.name}.v2"
        if number < kept:
            shutil.copyfile(path, goal)
        else:
            goal.write_bytes(os.urandom(path.stat().st_size))
            new += goal.stat().st_size
    return new


def _timed(node: Node, *words: str) -> float:
    began = time.monotonic()
    node.json(*words)
    return time.monotonic() - began


def _du(node: Node) -> int:
    contents = node.root / "disk" / "contents"
    said = subprocess.run(
        ["du", "-s", "--block-size=1", str(contents)], check=True, capture_output=True, text=True
    )
    return int(said.stdout.split()[0])


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sharing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=size_of, default="300MB")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--only", choices=METHODS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    load, size = list(os.getloadavg()), asked.size
    parameters: dict[str, Any] = {"size": size, "files": asked.files, "share": asked.share}
    rows: dict[str, Row] = {}
    for method in METHODS:
        if asked.only in (None, method):
            rows[method] = (parameters, measure(method, size, asked.files, asked.share))
            if not asked.json:
                print(table(method, rows[method][1]), flush=True)
    if asked.json:
        json.dump(document(rows, load, ("libtorrent",)), sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()

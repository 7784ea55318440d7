"""Every measurement, one after the other: `make bench`, or `python -m bench [--only NAME]... [--out DIR]`.

Each is a program of its own that may be run alone. Its table comes as soon as it is done, its JSON (machine, versions,
parameters, figures) lies in the directory afterwards; the last table says which targets were missed. A measurement
that takes too long is ended. Needs root for links of a given rate; run it while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Figure, table


@dataclass(frozen=True)
class Part:
    """One measurement: a module, its arguments, and the seconds that it may take."""

    module: str
    arguments: tuple[str, ...] = ()
    seconds: int = 600
    root: bool = False


PARTS = {
    "start": Part("bench.start"),
    "restart": Part("bench.restart", seconds=900),
    "matching": Part("bench.matching"),
    "create": Part("bench.create"),
    "small_files": Part("bench.small_files"),
    "reading": Part("bench.reading"),
    "direct": Part("bench.direct", seconds=900),
    "swarm": Part("bench.swarm", ("--matrix", "--minutes", "40"), seconds=3600, root=True),
    "rivals": Part("bench.rivals", seconds=900, root=True),
    "growth": Part("bench.growth", seconds=900),
    "sharing": Part("bench.sharing"),
    "origin_sets": Part("bench.origin_sets"),
    "objects": Part("bench.objects", seconds=1800),
    "object_traces": Part("bench.object_traces"),
    "projection": Part("bench.projection"),
}


def run(name: str, part: Part, out: Path) -> str:
    """Run one measurement and keep its JSON; return what went wrong, or nothing."""
    command = [sys.executable, "-m", part.module, *part.arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        said, _ = process.communicate(timeout=part.seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # it takes its nodes and links with it
        process.wait()
        return f"not done within {part.seconds} s"
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        return f"ended with exit code {process.returncode}"
    (out / f"{name}.json").write_bytes(said)
    return ""


def show(name: str, found: dict[str, Any]) -> list[str]:
    """Print one measurement's tables; return the rows that miss a target."""
    print(f"\n== {name}: load {found['machine']['load_before'][0]:.1f} before", flush=True)
    missed = []
    for row, one in found["rows"].items():
        figures = [
            Figure(**{key: value for key, value in each.items() if key != "holds"}) for each in one["figures"]
        ]
        print(table(f"{row} {one['parameters'].get('says', '')}".rstrip(), figures))
        missed += [f"{name}, {row}: {each.what}" for each in figures if each.holds is False]
    return missed


def main() -> int:
    """Run what was asked for; 1 when something did not run to its end."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="where the JSON goes")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    asked.out.mkdir(parents=True, exist_ok=True)
    missed, failed = [], []
    for name in asked.only or PARTS:
        part = PARTS[name]
        if part.root and os.geteuid():
            print(f"\n== {name}: needs root for its links, left out")
            continue
        began = time.monotonic()
        if why := run(name, part, asked.out):
            failed.append(f"{name}: {why}")
            print(f"\n== {name}: {why}")
            continue
        missed += show(name, json.loads((asked.out / f"{name}.json").read_bytes()))
        print(f"   {time.monotonic() - began:.0f} s")
    print("\n== targets missed" if missed else "\n== no target was missed")
    for line in missed + failed:
        print(f"  {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

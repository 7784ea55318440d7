"""What it costs a job to read a file of a set on its own node, beside a plain file, Redis and Ray.

    python -m bench.reading [--only ROW]... [--size BYTES] [--json]

A real daemon, its clients in other processes, everything in one run and by turns. Ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Final

from bench.arguments import size as size_of
from bench.reading import bandwidth, opens, rate, shared
from bench.report import Row, document, table

_LIBRARIES: Final = ("msgspec", "redis")
_ROWS: Final = {"opens": opens, "rate": rate, "bandwidth": bandwidth, "shared": shared}


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.reading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=_ROWS, metavar="ROW", help=", ".join(_ROWS))
    parser.add_argument("--size", type=size_of, default="512MB", help="of the large file")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    load, rows = list(os.getloadavg()), {}
    out = sys.stderr if asked.json else sys.stdout
    for name in asked.only or _ROWS:
        found: Row = _ROWS[name].measure(asked)
        rows[name] = found
        print(table(f"{name}  {found[0]}", found[1]), file=out, flush=True)
    facts = document(rows, load, _LIBRARIES, ["redis-server"])
    print(f"{facts['machine']}  {facts['versions']}", file=out)
    if asked.json:
        json.dump(facts, sys.stdout, indent=2)
        print()
    sys.exit(any(figure.holds is False for _, figures in rows.values() for figure in figures))


if __name__ == "__main__":
    main()

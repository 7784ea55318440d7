"""The figures of the object cache, each beside its target.

    python -m bench.objects [--only ROW]... [--reads N] [--traffic BYTES] [--json]

Real daemons, a fake of Cloud Storage in a process of its own, and a real redis-server, all on this machine, each
thing beside what it is compared with, in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Final

from bench.arguments import size as size_of
from bench.objects import cap, cold, hits, stampede, storm
from bench.report import Row, document, table

_LIBRARIES: Final = ("google-cloud-storage", "google-crc32c", "msgspec", "redis")
_ROWS: Final = {"hits": hits, "stampede": stampede, "storm": storm, "cap": cap, "cold": cold}


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.objects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=_ROWS, metavar="ROW", help=", ".join(_ROWS))
    parser.add_argument("--reads", type=int, default=100_000, help="of the storm, in all")
    parser.add_argument("--traffic", type=size_of, default="10GB", help="read under the memory cap")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    load, rows = list(os.getloadavg()), {}
    for name in asked.only or _ROWS:
        parameters, found = rows[name] = _measured(name, asked)
        print(
            table(f"{name}  {parameters}", found), file=sys.stderr if asked.json else sys.stdout, flush=True
        )
    if asked.json:
        json.dump(document(rows, load, _LIBRARIES, ["redis-server"]), sys.stdout, indent=2)
        print()


def _measured(name: str, asked: argparse.Namespace) -> Row:
    found: Row = _ROWS[name].measure(asked)
    return found


if __name__ == "__main__":
    main()

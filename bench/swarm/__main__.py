"""How close a set's way to many nodes comes to what their links allow.

    python -m bench.swarm --receivers 5 --size 48MiB --rate 20 [--source-rate 20] [--runs 3] [--json]
    python -m bench.swarm --receivers 2 --size 200MB --rate 0          (loopback, as fast as it goes; no root)
    python -m bench.swarm --matrix [--only ROW]... [--runs 3] [--minutes 90] [--json]     (the table, with its targets)

Real daemons, one for each node, started for each run; with a rate each has a network namespace, and a link of that
many Mbit/s in both directions. A set is created on the source and replicated to all receivers; figures are medians.

seconds     from the request until the slowest receiver has the set, whole and synced
bound       max(F/u, F/d, N F/(u + N d)): no way of sending can be faster; TCP carries 0.956 of a line's rate
times bound the one divided by the other
wire        of these, the part between the first and the last full-size packets of the receivers (links only)
start, end  the seconds before and after it (links only)
copies      payload bytes that the source has sent, divided by the set's
redundant   payload bytes that receivers got twice, divided by all they got
cpu         CPU seconds of all daemons, for each GiB received
processors  processors that the daemons kept busy

Of receivers that come at random times, within twice the bound, each has a bound of its own: F/d, from when it asked.
When something happens to one of them half-way, the others are held against the bound without it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bench.arguments import size as size_of
from bench.cluster import Cluster
from bench.network import congestion, controls
from bench.report import Row as Report
from bench.report import document, medians, table
from bench.swarm import events
from bench.swarm.plan import MATRIX, Row
from bench.swarm.run import Setting, measure


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.swarm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--matrix", action="store_true", help="every row of the table, each with its targets")
    parser.add_argument(
        "--only", action="append", choices=MATRIX, metavar="ROW", help="this row of the table"
    )
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="begin no run of the table after that long"
    )
    parser.add_argument("--receivers", type=int, default=5)
    parser.add_argument("--size", type=size_of, default="48MiB")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.0, help="Mbit/s of each receiver; 0: loopback")
    parser.add_argument(
        "--source-rate", type=float, default=0.0, help="Mbit/s of the source (default: --rate)"
    )
    parser.add_argument("--encryption", choices=("tls", "off"), default="tls")
    parser.add_argument("--congestion", default=congestion(), choices=controls(), help="of TCP, on the links")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep-logs", metavar="DIR", help="copy the daemons' logs there")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    if (asked.rate or asked.matrix or asked.only) and os.geteuid():
        parser.error("network namespaces need root; --rate 0 measures without")
    load, rows = list(os.getloadavg()), dict[str, Report]()
    until = time.monotonic() + 60 * asked.minutes
    for name, row in _wanted(asked).items():
        runs: list[dict[str, float]] = []
        setting = replace(row.setting, congestion=asked.congestion)
        while len(runs) < asked.runs and (not runs or time.monotonic() < until):
            runs.append(measure(setting, asked.keep_logs, _during(row)))
        rows[name] = (vars(setting) | {"event": row.event, "runs": len(runs)}, row.figures(medians(runs)))
        print(table(name, rows[name][1]), file=sys.stderr if asked.json else sys.stdout, flush=True)
        if time.monotonic() > until:
            print(f"no more rows: {asked.minutes:g} minutes are over", file=sys.stderr)
            break
    if asked.json:
        json.dump(document(rows, load, ("libtorrent",)), sys.stdout, indent=2)
        print()


def _wanted(asked: argparse.Namespace) -> dict[str, Row]:
    if asked.only or asked.matrix:
        return {name: MATRIX[name] for name in asked.only or MATRIX}
    setting = Setting(
        receivers=asked.receivers,
        size=asked.size,
        rate=asked.rate,
        source_rate=asked.source_rate or asked.rate,
        files=asked.files,
        encryption=asked.encryption,
    )
    return {f"N = {setting.receivers}": Row(setting=setting)}


def _during(row: Row) -> Callable[[Setting, Cluster], dict[str, float]] | None:
    if row.event == "late":
        return events.late
    return partial(events.fault, event=row.event) if row.event else None


if __name__ == "__main__":
    main()

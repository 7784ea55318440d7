"""How close a set's way to many nodes comes to what their links allow.

    python -m bench.swarm --receivers 5 --size 48MiB --rate 20 [--source-rate 20] [--runs 3] [--json]
    python -m bench.swarm --receivers 2 --size 200MB --rate 0          (loopback, as fast as it goes; no root)

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
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys

from cached.units import parse_size

from bench.report import Figure, document, medians, table
from bench.swarm.run import Setting, measure

_UNITS = {
    "seconds": "s",
    "bound": "s",
    "times bound": "x",
    "wire": "x",
    "start": "s",
    "end": "s",
    "cpu": "s/GiB",
}


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.swarm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--receivers", type=int, default=5)
    parser.add_argument("--size", type=parse_size, default="48MiB")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.0, help="Mbit/s of each receiver; 0: loopback")
    parser.add_argument(
        "--source-rate", type=float, default=0.0, help="Mbit/s of the source (default: --rate)"
    )
    parser.add_argument("--encryption", choices=("tls", "off"), default="tls")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep-logs", metavar="DIR", help="copy the daemons' logs there")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    if asked.rate and os.geteuid():
        parser.error("network namespaces need root; --rate 0 measures without")
    setting = Setting(
        receivers=asked.receivers,
        size=asked.size,
        rate=asked.rate,
        source_rate=asked.source_rate or asked.rate,
        files=asked.files,
        encryption=asked.encryption,
    )
    load = list(os.getloadavg())
    runs = [measure(setting, asked.keep_logs) for _ in range(asked.runs)]
    found = [Figure(key, value, _UNITS.get(key, "")) for key, value in medians(runs).items()]
    name = f"N = {setting.receivers}"
    if asked.json:
        json.dump(document({name: (vars(setting), found)}, load, ("libtorrent",)), sys.stdout, indent=2)
        print()
        return
    print(table(name, found))
    if asked.runs > 1:
        for key in runs[0]:
            print(f"  {key:<16}" + "  ".join(f"{run[key]:.3f}" for run in runs))


if __name__ == "__main__":
    main()

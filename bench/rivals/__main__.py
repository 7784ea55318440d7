"""`cached` beside programs that do the same, on the same links.

    python -m bench.rivals [--receivers 5] [--size 48MiB] [--rate 20] [--source-rate 20] [--only NAME] [--json]

Each node has a network namespace and a link of so many Mbit/s in both directions (needs root). Everything is ready
before a race: servers listen, files are hashed, nodes know each other. One run each.

seconds   until the slowest receiver has every file, by its program's own word; of `cached`, verified and synced too
x bound   of max(F/u, F/d, N F/(u + N d)) for F bytes, source uplink u, N receivers of d, at 0.956 of the line's rate
copies    bytes that left the source's link, less the share of headers, divided by F
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from cached.units import parse_size

from bench.network import Network
from bench.rivals.course import CannotRun, Course, Late, Racer, course
from bench.rivals.streams import PlainHttp, Rsync
from bench.rivals.syncthing import Syncthing
from bench.rivals.torrents import Aria2, PlainLibtorrent
from bench.swarm import GOODPUT, _write, bound

RACERS: list[Racer] = [PlainHttp(), Rsync(), Aria2(), PlainLibtorrent(), Syncthing()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receivers", type=int, default=5)
    parser.add_argument("--size", default="48MiB")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--source-rate", type=float, default=0.0)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    rates = [asked.source_rate or asked.rate, *[asked.rate] * asked.receivers]
    size = parse_size(asked.size)
    least = bound(size, asked.receivers, rates[0], asked.rate)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"bound {least:.1f} s")
    for racer in RACERS:
        if asked.only not in racer.name:
            continue
        with tempfile.TemporaryDirectory(prefix="cached-rivals-") as root:
            data = Path(root, "data")
            _write(data, size, 4)
            try:
                version = racer.version()
                with Network(rates) as network, course(network, Path(root), data, size, asked.receivers, 12 * least) as made:
                    racer.prepare(made)
                    before = made.sent()
                    began = time.monotonic()
                    racer.race(made)
                    seconds = time.monotonic() - began
                    sent = (made.sent() - before) * GOODPUT / size
                    print(f"{racer.name:<40} {seconds:8.2f} {seconds / least:6.2f} {sent:6.2f}   {version}", flush=True)
            except (CannotRun, Late) as why:
                print(f"{racer.name:<40} {why}")
                for n in range(2):
                  for log in Path(root).glob(f"n{n}/log"):
                    print(log.read_text()[-1500:])


main()

"""`cached` beside programs that do the same, on the same links.

    python -m bench.rivals [--receivers 5] [--size 48MiB] [--rate 20] [--source-rate 20] [--only NAME] [--json]

Each node has a network namespace and a link of so many Mbit/s in both directions (needs root). Everything is ready
before a race: servers listen, files are hashed, nodes know each other. One run each. A program that is not on this
machine says so (Debian: nginx-light curl rsync aria2 opentracker syncthing).

seconds      until the slowest receiver has every file, by its program's own word; of `cached`, verified and synced too
times bound  of max(F/u, F/d, N F/(u + N d)) for F bytes, source uplink u, N receivers of d, at 0.956 of the line's rate
copies       bytes that left the source's link, less the share of headers, divided by F
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.arguments import size as size_of
from bench.bound import GOODPUT
from bench.cluster import write_files
from bench.network import Network
from bench.report import Figure, Row, document, table
from bench.rivals import ours
from bench.rivals.course import CannotRun, Late, Racer, course
from bench.rivals.streams import PlainHttp, Rsync
from bench.rivals.syncthing import Syncthing
from bench.rivals.torrents import Aria2, PlainLibtorrent
from bench.swarm.run import Setting

RACERS: tuple[Racer, ...] = (PlainHttp(), Rsync(), Aria2(), PlainLibtorrent(), Syncthing())
#: A racer that takes so many times the bound has lost.
_PATIENCE = 12.0


def against(racer: Racer, setting: Setting) -> tuple[float, float]:
    """Return seconds and copies of one racer; raise `CannotRun` or `Late`."""
    racer.version()
    rates = [setting.source_rate, *[setting.rate] * setting.receivers]
    with (
        tempfile.TemporaryDirectory(prefix="cached-rivals-") as folder,
        Network(rates, setting.congestion) as network,
    ):
        root = Path(folder)
        write_files(root / "data", setting.size, setting.files)
        patience = _PATIENCE * setting.bound
        with course(network, root, root / "data", setting.size, setting.receivers, patience) as made:
            racer.prepare(made)
            before, began = made.sent(), time.monotonic()
            racer.race(made)
            seconds = time.monotonic() - began
            return seconds, (made.sent() - before) * GOODPUT / setting.size


def row(racer: Racer, setting: Setting, own: tuple[float, float] | None) -> Row:
    """Return the figures of one racer, and how `cached` compares; without figures it says why there are none."""
    try:
        seconds, copies = against(racer, setting)
    except (CannotRun, Late) as why:
        return {"says": str(why)}, []
    found = _figures(seconds, copies, setting)
    if own:
        found += [
            Figure("cached needs, of its time", own[0] / seconds, "x", 1.0, "<="),
            Figure("cached needs, of its copies", own[1] / copies, "x", 1.0, "<="),
        ]
    return {"version": racer.version()}, found


def _figures(seconds: float, copies: float, setting: Setting) -> list[Figure]:
    return [
        Figure("seconds", seconds, "s"),
        Figure("times bound", seconds / setting.bound, "x"),
        Figure("copies", copies, "x"),
    ]


def main() -> None:
    """Let everybody race; print a table, or JSON."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    setting = Setting(
        receivers=asked.receivers,
        size=asked.size,
        rate=asked.rate,
        source_rate=asked.source_rate or asked.rate,
    )
    load, rows, own = list(os.getloadavg()), {}, None
    if asked.only in ours.OURS:
        own = ours.race(setting)
        rows[ours.OURS] = ({"version": ours.version(), **vars(setting)}, _figures(*own, setting))
    for racer in RACERS:
        if asked.only in racer.name:
            rows[racer.name] = row(racer, setting, own)
    if asked.json:
        json.dump(document(rows, load, ("libtorrent",)), sys.stdout, indent=2)
        print()
        return
    print(f"{setting.receivers} receivers, {setting.size:,} bytes, bound {setting.bound:.1f} s")
    for name, (said, found) in rows.items():
        print(table(f"{name}: {said.get('says') or said['version']}", found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--receivers", type=int, default=5)
    parser.add_argument("--size", type=size_of, default="48MiB")
    parser.add_argument("--rate", type=float, default=20.0, help="Mbit/s of each receiver")
    parser.add_argument(
        "--source-rate", type=float, default=0.0, help="Mbit/s of the source (default: --rate)"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="only those with this in their name")
    parser.add_argument("--json", action="store_true")
    if os.geteuid():
        parser.error("network namespaces need root")
    return parser.parse_args()


if __name__ == "__main__":
    main()

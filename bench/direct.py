"""One source and one receiver, as fast as they go on one machine; and small sets, for one receiver and for eight.

    python -m bench.direct [--only stream|sets|cost] [--size 1GB] [--rounds 3] [--folder DIR] [--json]

Real daemons on loopback. `--folder` says on which file system everything lies; in `/dev/shm` the device does not count.

stream   a set of one file, from accepted offer to committed, beside `bench.tls_stream` of the same file, by turns
sets     the same for sets of 1 KB, 1 MB and 16 MB: medians over all receivers; the stream goes to as many at once
cost     CPU seconds for each GiB, of the source and of the receiver, by direct and BitTorrent, encrypted and plain;
         the link at which a processor of the busier side is full, if all of it were one thread as libtorrent's is;
         most memory of a node meanwhile (RssAnon, children included)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bench.arguments import size as size_of
from bench.cluster import Cluster, Node, clustered, write_files
from bench.report import Figure, Row, document, table
from bench.tls_stream import measure as stream_seconds

CAME: Final = re.compile(r"replicas_received .*? set=([0-9a-f]+) .*? seconds=([0-9.]+)")
SIZES: Final = {"1 KB": 1_000, "1 MB": 1_000_000, "16 MB": 16_000_000}
#: Most seconds of a set of so many bytes; of the largest: of the stream's.
TARGETS: Final = {"1 KB": 0.030, "1 MB": 0.040}
GIB: Final = 1 << 30


class Memory:
    """Most anonymous memory that nodes have had while the block ran, in bytes, children included."""

    def __init__(self, nodes: list[Node]) -> None:
        self._sessions = {node.pid: name for name, node in enumerate(nodes)}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = [0] * len(nodes)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            now = [0] * len(self.most)
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal():
                    with contextlib.suppress(OSError, KeyError):
                        now[self._sessions[os.getsid(int(entry.name))]] += _anonymous(entry)
            self.most = [max(pair) for pair in zip(self.most, now, strict=True)]


def _anonymous(process: Path) -> int:
    for line in (process / "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


@dataclass
class Bench:
    """A cluster whose sets come and go."""

    cluster: Cluster
    count: int = 0

    def bring(self, size: int, **wishes: Any) -> tuple[list[float], list[float], list[int]]:
        """Make a set of one new file, bring it to all other nodes, delete it.

        Return the seconds from accepted to committed of each receiver, the CPU seconds of each node, and the most
        memory of each node.
        """
        self.count += 1
        source, *receivers = self.cluster.nodes
        folder = self.cluster.root / f"data{self.count}"
        write_files(folder, size + self.count, 1)
        name = f"set{self.count}"
        with contextlib.closing(source.client()) as client:
            made = client.create(name, [folder], replicas=0, **wishes)
            time.sleep(1.0)  # what is known of the set travels: it is no part of what is measured
            warm(self.cluster.root, len(receivers) * size)
            before = [node.cpu() for node in self.cluster.nodes]
            with Memory(self.cluster.nodes) as memory:
                client.replicate(name, replicas=len(receivers), wait=True)
            cpu = [node.cpu() - one for node, one in zip(self.cluster.nodes, before, strict=True)]
            client.delete(name, everywhere=True)
        (folder / "000000").unlink()
        seconds = [dict(CAME.findall(node.log))[made.id[:8]] for node in receivers]
        return [float(one) for one in seconds], cpu, memory.most


@contextlib.contextmanager
def bench(asked: argparse.Namespace, receivers: int, encryption: str = "tls") -> Iterator[Bench]:
    """Give a cluster that has moved a set before: everything is loaded, connections are open."""
    with clustered(
        receivers + 1, capacity=8 * asked.size, encryption=encryption, folder=asked.folder
    ) as cluster:
        made = Bench(cluster)
        made.bring(1000)
        yield made


def plainly(cluster: Cluster, size: int, receivers: int = 1) -> float:
    """Return the seconds of the plain stream of a file of so many bytes, to so many at once: their median."""
    folder = cluster.root / "plain"
    if not (folder / str(size)).exists():
        folder.mkdir(exist_ok=True)
        with (folder / str(size)).open("wb") as out:
            for left in range(size, 0, -(1 << 20)):
                out.write(os.urandom(min(left, 1 << 20)))
    warm(cluster.root, receivers * size)
    key = cluster.root / "key"
    return statistics.median(stream_seconds(folder / str(size), folder / "goal", key, receivers))


def warm(folder: Path, size: int) -> None:
    """Touch and free so many bytes of memory, so that what is measured next finds pages that the machine has.

    A virtual machine with free page reporting gives free memory back to its host within seconds, and fetches each page
    at its first use, which costs more than all else that is measured here: 2.4 s for a GB. Whoever comes just after
    another has freed memory would not pay that.
    """
    block = bytes(1 << 20)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range((size >> 20) + 64):
            file.write(block)


def stream(asked: argparse.Namespace) -> dict[str, Row]:
    """Measure the row of that name."""
    plain, ours = [], []
    with bench(asked, 1) as one:
        for _ in range(asked.rounds):
            plain.append(plainly(one.cluster, asked.size))
            ours.append(one.bring(asked.size)[0][0])
    ratio = statistics.median(a / b for a, b in zip(plain, ours, strict=True))
    return {
        "stream": (
            {"size": asked.size, "rounds": asked.rounds, "folder": asked.folder or ""},
            [
                Figure("a TLS stream, received, hashed, written, synced", speed(asked.size, plain), "MB/s"),
                Figure("one set from accepted to committed", speed(asked.size, ours), "MB/s"),
                Figure("of the stream's speed", ratio, "x", 0.9, ">="),
            ],
        )
    }


def speed(size: int, seconds: list[float]) -> float:
    """Return MB/s, of medians."""
    return size / 1e6 / statistics.median(seconds)


def sets(asked: argparse.Namespace) -> dict[str, Row]:
    """Measure the row of that name."""
    rows: dict[str, Row] = {}
    for receivers in (1, 8):
        with bench(asked, receivers) as one:
            large, turns = SIZES["16 MB"], range(max(3, asked.rounds))
            plain = statistics.median(plainly(one.cluster, large, receivers) for _ in turns)
            figures = [Figure("TLS streams of 16 MB to as many at once", 1e3 * plain, "ms")]
            for name, size in SIZES.items():
                took = [each for _ in range(2 * asked.rounds + 1) for each in one.bring(size)[0]]
                target = 1e3 * TARGETS.get(name, 2 * plain)
                figures.append(Figure(f"{name}, p50", 1e3 * statistics.median(took), "ms", target))
                figures.append(Figure(f"{name}, slowest", 1e3 * max(took), "ms"))
        rows[f"sets, 1 to {receivers}"] = ({"rounds": 2 * asked.rounds + 1}, figures)
    return rows


def cost(asked: argparse.Namespace) -> dict[str, Row]:
    """Measure the row of that name."""
    rows: dict[str, Row] = {}
    for encryption in ("tls", "off"):
        with bench(asked, 1, encryption) as one:
            for method in ("direct", "bittorrent"):
                if (method, encryption) != ("direct", "off"):  # always encrypted
                    rows[f"cost, {method}, {encryption}"] = _cost(asked, one, method)
    return rows


def _cost(asked: argparse.Namespace, one: Bench, method: str) -> Row:
    runs = [one.bring(asked.size, methods=[method]) for _ in range(asked.rounds)]
    sides = [statistics.median(run[1][side] for run in runs) * GIB / asked.size for side in (0, 1)]
    figures = [
        Figure("CPU of the source", sides[0], "s/GiB"),
        Figure("CPU of the receiver", sides[1], "s/GiB"),
        Figure("speed", speed(asked.size, [run[0][0] for run in runs]), "MB/s"),
        Figure("link that fills one processor of the busier side", 8 * GIB / 1e9 / max(sides), "Gbit/s"),
        Figure("memory of the source", max(run[2][0] for run in runs) / 1e6, "MB", 250),
        Figure("memory of the receiver", max(run[2][1] for run in runs) / 1e6, "MB", 250),
    ]
    return {"size": asked.size, "rounds": asked.rounds}, figures


ROWS: Final[dict[str, Callable[[argparse.Namespace], dict[str, Row]]]] = {
    "stream": stream,
    "sets": sets,
    "cost": cost,
}


def main() -> None:
    """Measure, print tables, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.direct",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=ROWS)
    parser.add_argument("--size", type=size_of, default="1GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where files and stores lie")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # everything that was started ends all the same
    load = list(os.getloadavg())
    rows: dict[str, Row] = {}
    for name in asked.only or ROWS:
        rows |= ROWS[name](asked)
    if asked.json:
        json.dump(document(rows, load, ("libtorrent", "aiohttp", "cryptography")), sys.stdout, indent=2)
        print()
        return
    print(f"load {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after")
    for name, (_, found) in rows.items():
        print(table(name, found))


if __name__ == "__main__":
    main()

"""How close a set's way to many nodes comes to what their links allow.

    python -m bench.swarm --receivers 5 --size 48MiB --rate 20 --source-rate 20 --runs 3 [--json]
    python -m bench.swarm --receivers 2 --size 200MB --rate 0          (loopback, as fast as it goes; no root)

Real daemons, one for each node, started for each run; with a rate each has a network namespace, and a link of that
many Mbit/s in both directions. A set is created on the source and replicated to all receivers; figures are medians.

seconds   from `cached replicate` until every receiver holds the set, synced and committed
bound     max(F/u, F/d, N F/(u + N d)): no way of sending can be faster; TCP carries 0.956 of a line's rate
wire      of the seconds, those between the first and the last full-size packets of the receivers (links only)
start     of the seconds, those before the first of them (links only)
copies    payload bytes that the source has sent, divided by the set's
redundant payload bytes that receivers got twice, divided by all they got
cpu       CPU seconds of all daemons, for each GiB received
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from cached.units import parse_size

from bench.network import Network

CACHED: Final = str(Path(sys.executable).with_name("cached"))
#: Share of a line's rate that is left for the bytes that TCP carries.
GOODPUT: Final = 0.956
#: Seconds that a node gets to become ready, and to stop.
PATIENCE: Final = 30.0
#: Seconds between two looks at the links.
LOOK: Final = 0.02

CONFIG: Final = """\
[node]
name = "{name}"
state_dir = "{root}/state"
runtime_dir = "{root}/run"
listen = "{host}:{port}"
bittorrent = "{host}:{swarm_port}"
[store]
disk = "{root}/disk"
capacity = "{capacity}"
memory = ""
[cluster]
key_file = "{key}"
peers = {peers}
mdns = false
[replication]
encryption = "{encryption}"
"""


@dataclass
class Node:
    name: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    def json(self, *words: str) -> Any:
        """Return the JSON that a command answers on this node."""
        done = subprocess.run(
            [CACHED, *words, "--json", "--runtime-dir", str(self.root / "run")],
            capture_output=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise SystemExit(
                f"cached {' '.join(words)} on {self.name}: {done.stderr.decode().strip()}\n{self.log}"
            )
        return json.loads(done.stdout)

    def cpu(self) -> float:
        """Return the CPU seconds of the daemon and its children."""
        total, tick = 0.0, os.sysconf("SC_CLK_TCK")
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.process.pid:
                        total += (int(fields[11]) + int(fields[12])) / tick
        return total

    def received(self) -> int:
        """Return the bytes that have come over this node's link."""
        for line in Path(f"/proc/{self.process.pid}/net/dev").read_text().splitlines():
            device, _, counters = line.partition(":")
            if device.strip() == "eth0":
                return int(counters.split()[0])
        return 0


@dataclass
class Cluster:
    """The nodes of one run; node 0 is the source."""

    root: Path
    encryption: str
    capacity: int
    network: Network | None
    nodes: list[Node] = field(default_factory=list)

    def start(self, count: int) -> None:
        key = self.root / "key"
        subprocess.run([CACHED, "cluster", "init", "--key-file", str(key)], check=True, capture_output=True)
        self._start(0, key, [])
        _wait(self.all_ready, "a source that is ready", self)
        seed = self.nodes[0].json("status")["address"]
        for number in range(1, count):
            self._start(number, key, [seed])
        _wait(self.all_ready, "nodes that are ready", self)
        _wait(self.all_known, "nodes that know each other", self)

    def _start(self, number: int, key: Path, peers: list[str]) -> None:
        root = self.root / f"n{number}"
        root.mkdir()
        host = self.host(number)
        config = CONFIG.format(
            name=f"n{number}",
            root=root,
            host=host,
            key=key,
            capacity=self.capacity,
            encryption=self.encryption,
            peers=json.dumps(peers),
            port=4100 if self.network else 0,
            swarm_port=4101 if self.network else 0,
        )
        (root / "config.toml").write_text(config)
        before = self.network.inside(number) if self.network else []
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [*before, CACHED, "daemon", "--config", str(root / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(Node(f"n{number}", root, process))

    def host(self, number: int) -> str:
        return self.network.address(number) if self.network else "127.0.0.1"

    def all_ready(self) -> bool:
        for node in self.nodes:
            if node.process.poll() is not None:
                raise SystemExit(f"{node.name} has ended:\n{node.log}")
        return all(" ready " in node.log for node in self.nodes)

    def all_known(self) -> bool:
        return all(
            sum(seen["alive"] for seen in node.json("nodes")["items"]) == len(self.nodes)
            for node in self.nodes
        )

    def stop(self) -> None:
        for node in self.nodes:
            node.process.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


class Watch:
    """Looks at the receivers' links while a transfer runs."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.began = time.monotonic()
        self.seen: list[tuple[float, list[int]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            self.seen.append((time.monotonic() - self.began, [node.received() for node in self._nodes]))

    def span(self, size: int) -> tuple[float, float]:
        """Return when the first hundredth of the set had come to somebody, and when the last had to everybody."""
        base = self.seen[0][1]
        come = [
            (when, [now - first for now, first in zip(row, base, strict=True)]) for when, row in self.seen
        ]
        first = next((when for when, row in come if max(row) > 0.01 * size), 0.0)
        done = [max(bytes_ for bytes_ in column) for column in zip(*(row for _, row in come), strict=True)]
        last = next(
            when
            for when, row in come
            if all(now >= all_ - 0.005 * size for now, all_ in zip(row, done, strict=True))
        )
        return first, last


def bound(size: int, receivers: int, source_rate: float, rate: float) -> float:
    """Return the fewest seconds in which so many bytes can be on all receivers, at rates in Mbit/s."""
    u, d = (mbit * 1e6 / 8 * GOODPUT for mbit in (source_rate, rate))
    return max(size / u, size / d, receivers * size / (u + receivers * d))


def _wait(done: Callable[[], bool], what: str, cluster: Cluster) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise SystemExit(
                f"{what}: not within {PATIENCE:.0f} s\n" + "\n".join(n.log for n in cluster.nodes)
            )
        time.sleep(0.1)


def _write(folder: Path, size: int, files: int) -> None:
    folder.mkdir()
    chance = random.Random(size)
    for number in range(files):
        with (folder / f"{number:06d}").open("wb") as out:
            left = size // files + (size % files if number == 0 else 0)
            while left:
                left -= out.write(chance.randbytes(min(left, 1 << 20)))


@contextlib.contextmanager
def _cluster(asked: argparse.Namespace, size: int) -> Iterator[Cluster]:
    with contextlib.ExitStack() as ending:
        root = Path(tempfile.mkdtemp(prefix="cached-swarm-"))
        ending.callback(_remove, root)
        network = None
        if asked.rate:
            network = ending.enter_context(Network([asked.source_rate, *[asked.rate] * asked.receivers]))
        cluster = Cluster(root, asked.encryption, 4 * size + (1 << 30), network)
        ending.callback(cluster.stop)
        cluster.start(asked.receivers + 1)
        yield cluster


def _remove(root: Path) -> None:
    for folder, below, _ in os.walk(root):
        for name in below:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one run."""
    size = parse_size(asked.size)
    with _cluster(asked, size) as cluster:
        source, receivers = cluster.nodes[0], cluster.nodes[1:]
        _write(cluster.root / "data", size, asked.files)
        source.json("create", "bench", str(cluster.root / "data"), "--replicas", "0")
        cpu = sum(node.cpu() for node in cluster.nodes)
        with Watch(receivers) as watch:
            source.json("replicate", "bench", "--replicas", str(len(receivers)), "--wait")
            seconds = time.monotonic() - watch.began
        cpu = sum(node.cpu() for node in cluster.nodes) - cpu
        sent = _traffic(source)["bytes_sent"]
        got = [_traffic(node) for node in receivers]
        if asked.keep_logs:
            for node in cluster.nodes:
                Path(asked.keep_logs, f"{node.name}.log").write_text(node.log)
    figures = {
        "seconds": seconds,
        "copies": sent / size,
        "redundant": sum(one["bytes_redundant"] for one in got)
        / max(1, sum(one["bytes_received"] for one in got)),
        "cpu": cpu / (size * len(receivers) / (1 << 30)),
    }
    if asked.rate:
        least = bound(size, len(receivers), asked.source_rate, asked.rate)
        first, last = watch.span(size)
        figures |= {
            "bound": least,
            "seconds/bound": seconds / least,
            "wire/bound": (last - first) / least,
            "start": first,
        }
    else:
        figures["MB/s"] = size / 1e6 / seconds
    return figures


def _traffic(node: Node) -> dict[str, int]:
    lines: list[dict[str, int]] = node.json("status").get("traffic", [])
    return lines[0] if lines else {"bytes_sent": 0, "bytes_received": 0, "bytes_redundant": 0}


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--receivers", type=int, default=5)
    parser.add_argument("--size", default="48MiB")
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
    asked.source_rate = asked.source_rate or asked.rate
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if asked.rate and os.geteuid():
        parser.error("network namespaces need root; --rate 0 measures without")
    runs = [measure(asked) for _ in range(asked.runs)]
    figures = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
    if asked.json:
        print(json.dumps({"receivers": asked.receivers, "size": asked.size, "runs": asked.runs, **figures}))
        return
    for key, value in figures.items():
        every = "  ".join(f"{run[key]:.3f}" for run in runs) if len(runs) > 1 else ""
        print(f"{key:<16}{value:>10.3f}    {every}")


if __name__ == "__main__":
    main()

"""How long a node takes until it says it is ready: `python -m bench.start [--sets 100] [--runs 5] [--against TREE]`.

A node with that many sets on disk is started and stopped several times; the clock runs from exec to the READY=1
datagram that a service manager would get. Beside it, in the same run, the start of a bare interpreter, and with
`--against` the node of another checkout (`git worktree add /tmp/before COMMIT`), by turns. Where a machine has other
work, the processor's time says more than the clock: it is that of the daemon itself, until it was ready, without its
children. Modules have their bytecode, as installed ones do.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Figure, Row, show

CACHED = str(Path(sys.executable).with_name("cached"))

CONFIG = """\
[node]
name = "bench"
state_dir = "{root}/state"
runtime_dir = "{root}/run"
listen = "127.0.0.1:0"
bittorrent = "127.0.0.1:0"
[store]
disk = "{root}/disk"
capacity = "1GB"
memory = ""
"""


class Bench:
    """One node's directory, the program that it runs, and the socket on which it reports."""

    def __init__(self, root: Path, tree: Path, config: str = CONFIG) -> None:
        root.mkdir()
        self.root = root
        self.ready: list[float] = []
        self.processor: list[float] = []
        self.stopped: list[float] = []
        self.env = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        } | {
            "NOTIFY_SOCKET": str(root / "notify"),
            "PYTHONPATH": f"{tree}:{tree / 'cli'}",
            "PYTHONPYCACHEPREFIX": str(root / "bytecode"),
        }
        self.config = root / "config.toml"
        self.config.write_text(config.format(root=root))
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(root / "notify"))
        self.notify.settimeout(60)

    def start(self) -> tuple[subprocess.Popen[bytes], float]:
        """Start the node; return it and the seconds until it was ready."""
        began = time.perf_counter()
        node = subprocess.Popen(
            [CACHED, "daemon", "--config", str(self.config)],
            env=self.env,
            cwd=self.root,
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in self.notify.recv(4096):
                pass
        except BaseException:
            node.kill()
            node.wait()
            raise
        return node, time.perf_counter() - began

    def stop(self, node: subprocess.Popen[bytes]) -> float:
        """Stop the node in order; return the seconds that took."""
        began = time.perf_counter()
        node.send_signal(signal.SIGTERM)
        node.wait(60)
        return time.perf_counter() - began

    def measure(self) -> None:
        """Start and stop the node once."""
        node, seconds = self.start()
        self.ready.append(seconds)
        self.processor.append(processor_seconds(node.pid))
        self.stopped.append(self.stop(node))

    def fill(self, sets: int) -> None:
        """Create so many sets of one small file each."""
        from cached.client import Client

        node, _ = self.start()
        try:
            client = Client(self.root / "run")
            for number in range(sets):
                source = self.root / f"set{number}.txt"
                source.write_text(f"{number}\n")
                client.create(f"set{number}", [source])
                source.unlink()
        finally:
            self.stop(node)


def processor_seconds(pid: int) -> float:
    """Return the seconds that a process has used its processors, in user and kernel mode (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare() -> float:
    """Return the seconds that an interpreter takes to start and end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    trees = {"here": Path(__file__).parents[1]} | ({"there": asked.against} if asked.against else {})
    load, bares = list(os.getloadavg()), []
    with tempfile.TemporaryDirectory(prefix="cached-bench-") as root:
        benches = {name: Bench(Path(root) / name, tree.resolve()) for name, tree in trees.items()}
        for bench in benches.values():
            bench.fill(asked.sets)
        for _ in range(asked.runs):
            bares.append(bare())
            for bench in benches.values():
                bench.measure()
    rows: dict[str, Row] = {"bare interpreter": ({}, [Figure("start to end", middle(bares), "s")])} | {
        name: ({"sets": asked.sets, "runs": asked.runs}, figures(bench, middle(bares)))
        for name, bench in benches.items()
    }
    show(rows, load, as_json=asked.json)


def figures(bench: Bench, bare_seconds: float) -> list[Figure]:
    """Return what one tree's node took."""
    return [
        figure
        for what, seconds in (
            ("exec to READY=1", bench.ready),
            ("processor until then", bench.processor),
            ("SIGTERM to exit", bench.stopped),
        )
        for figure in (
            Figure(f"{what}, median", middle(seconds), "s"),
            Figure(f"{what}, least", round(min(seconds), 3), "s"),
            Figure(f"{what}, of the bare interpreter's", middle(seconds) / bare_seconds, "x"),
        )
    ]


def middle(seconds: list[float]) -> float:
    """Return the median, in milliseconds' steps."""
    return round(statistics.median(seconds), 3)


if __name__ == "__main__":
    main()

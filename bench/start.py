"""How long a node takes until it says it is ready: `python -m bench.start [--sets 100] [--runs 5] [--json]`.

A node with that many sets on disk is started and stopped several times; the clock runs from exec to the READY=1
datagram that a service manager would get. Beside it, in the same run, the start of a bare interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    """One node's directory, and the socket on which it reports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.config.write_text(CONFIG.format(root=root))
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(root / "notify"))
        self.notify.settimeout(60)

    def start(self) -> tuple[subprocess.Popen[bytes], float]:
        """Start the node; return it and the seconds until it was ready."""
        env = {**os.environ, "NOTIFY_SOCKET": str(self.root / "notify")}
        began = time.perf_counter()
        node = subprocess.Popen(
            [CACHED, "daemon", "--config", str(self.config)], env=env, stderr=subprocess.DEVNULL
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
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    ready, stopped, bares = [], [], []
    with tempfile.TemporaryDirectory(prefix="cached-bench-") as root:
        bench = Bench(Path(root))
        bench.fill(asked.sets)
        for _ in range(asked.runs):
            bares.append(bare())
            node, seconds = bench.start()
            ready.append(seconds)
            stopped.append(bench.stop(node))
    figures = {
        "sets": asked.sets,
        "runs": asked.runs,
        "ready_seconds": round(statistics.median(ready), 3),
        "stop_seconds": round(statistics.median(stopped), 3),
        "bare_interpreter_seconds": round(statistics.median(bares), 3),
    }
    if asked.json:
        print(json.dumps(figures))
        return
    print(f"{'what':<34}{'seconds (median)':>18}{'times bare':>12}")
    for label, key in (
        (f"exec to READY=1, {asked.sets} sets", "ready_seconds"),
        ("SIGTERM to exit", "stop_seconds"),
        ("bare interpreter", "bare_interpreter_seconds"),
    ):
        ratio = figures[key] / figures["bare_interpreter_seconds"]
        print(f"{label:<34}{figures[key]:>18.3f}{ratio:>12.1f}")


if __name__ == "__main__":
    main()

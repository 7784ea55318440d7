"""What a set of very many small files costs, beside `tar x` and `sync` of the same files.

    python -m bench.small_files [--files 100000] [--dir DIR] [--rounds 1] [--json]

Files of 0 to 4 KiB, a thousand in a directory. In one run, on one file system: the archive unpacked and synced, before
everything else and after it; the set created; brought to a second daemon by the direct method, and to a third by
BitTorrent; listed, verified, deleted. Each ratio is the faster of the two `tar x` + `sync` divided by the seconds: 1.0
is as fast as tar. Nothing is deleted before the end, because ext4 creates files slowly for five minutes after very many
were deleted (it does not reuse their inodes at once): what ran in those minutes before this program counts as well.

longest wait   of somebody who asks the daemon for its sets all the time meanwhile, in milliseconds
memory         highest resident size of the daemon, in MB
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from cached.client import Client

from bench.cluster import Cluster, Node, clustered

_FOLDER: Final = 1000
_LARGEST: Final = 4096
#: Seconds between two questions to a daemon.
_ASK: Final = 0.005


def write_files(top: Path, files: int) -> int:
    """Write so many small files; return their bytes."""
    chance = random.Random(files)
    total = 0
    for number in range(files):
        folder = top / f"{number // _FOLDER:04d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True)
        data = chance.randbytes(chance.randrange(_LARGEST + 1))
        (folder / f"{number % _FOLDER:04d}").write_bytes(data)
        total += len(data)
    return total


class Waits:
    """Somebody who asks a daemon all the time, and notes how long the answers take."""

    def __init__(self, node: Node) -> None:
        self._client = Client(node.root / "run")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.seconds: list[float] = []

    def _ask(self) -> None:
        while not self._over.wait(_ASK):
            began = time.perf_counter()
            self._client.list(local=True)
            self.seconds.append(time.perf_counter() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def memory(node: Node) -> float:
    """Return the highest resident size of a daemon so far, in MB."""
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


def unpack(archive: Path, goal: Path) -> float:
    """Return the seconds that `tar x` and `sync` take."""
    goal.mkdir()
    _sync(goal)
    began = time.perf_counter()
    subprocess.run(["tar", "xf", str(archive), "-C", str(goal)], check=True)
    _sync(goal)
    return time.perf_counter() - began


def _sync(place: Path) -> None:
    subprocess.run(["sync", "-f", str(place)], check=True)


class Steps:
    """What is measured, one after the other."""

    def __init__(self, cluster: Cluster, asked: argparse.Namespace) -> None:
        self._cluster = cluster
        self._data = cluster.root / "data"
        self.figures: dict[str, Any] = {"files": asked.files}

    def run(self) -> None:
        """Fill in all figures."""
        root, figures = self._cluster.root, self.figures
        figures["bytes"] = write_files(self._data, figures["files"])
        archive = root / "archive.tar"
        subprocess.run(["tar", "cf", str(archive), "-C", str(self._data), "."], check=True)
        before = unpack(archive, root / "unpacked")
        print(f"tar x and sync: {before:.1f} s", file=sys.stderr)
        source, direct, torrent = self._cluster.nodes
        create = ["create", "small", str(self._data), "--replicas", "0"]
        self._step("create", [source], lambda: source.json(*create))
        for method, node in (("direct", direct), ("bittorrent", torrent)):
            source.json("update", "small", "--methods", method)
            replicate = ["replicate", "small", "--to", node.name, "--wait"]
            self._step(method, [source, node], lambda words=replicate: source.json(*words))  # type: ignore[misc]
        self._step("list", [source], lambda: source.json("files", "small"))
        self._step("verify", [torrent], lambda: torrent.json("verify", "small"))
        after = unpack(archive, root / "unpacked again")
        self._step("delete", [source], lambda: source.json("delete", "small"))
        figures["tar"], figures["tar_again"] = round(before, 2), round(after, 2)
        for step in ("create", "direct", "bittorrent"):
            figures[step]["ratio"] = round(min(before, after) / figures[step]["seconds"], 2)

    def _step(self, name: str, nodes: list[Node], work: Callable[[], object]) -> None:
        _sync(self._cluster.root)
        cpu = sum(node.cpu() for node in nodes)
        with contextlib.ExitStack() as stack:
            asking = [stack.enter_context(Waits(node)) for node in nodes]
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
        print(f"{name}: {seconds:.1f} s", file=sys.stderr)
        self.figures[name] = {
            "seconds": round(seconds, 2),
            "daemon_cpu_seconds": round(sum(node.cpu() for node in nodes) - cpu, 2),
            "longest_wait_ms": round(1000 * max(max(one.seconds, default=0.0) for one in asking)),
            "memory_mb": round(max(memory(node) for node in nodes)),
        }


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--dir", help="where to work (default: the usual place of temporary files)")
    parser.add_argument("--keep-logs", metavar="DIR", help="copy the daemons' logs there")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with clustered(3, capacity=64 * _LARGEST * asked.files + (1 << 30), folder=asked.dir) as cluster:
        steps = Steps(cluster, asked)
        try:
            steps.run()
        finally:
            if asked.keep_logs:
                cluster.keep_logs(asked.keep_logs)
    figures = steps.figures
    if asked.json:
        print(json.dumps(figures))
        return
    print(f"{figures['files']} files, {figures['bytes'] / 1e6:.0f} MB")
    print(f"{'':<12}{'seconds':>9}{'x tar':>8}{'cpu s':>8}{'longest wait ms':>17}{'memory MB':>11}")
    for name in ("tar", "tar_again"):
        print(f"{name.replace('_', ' '):<12}{figures[name]:>9.2f}")
    for name, value in figures.items():
        if isinstance(value, dict):
            print(
                f"{name:<12}{value['seconds']:>9.2f}{value.get('ratio', ''):>8}{value['daemon_cpu_seconds']:>8.2f}"
                f"{value['longest_wait_ms']:>17}{value['memory_mb']:>11}"
            )


if __name__ == "__main__":
    sys.exit(main())

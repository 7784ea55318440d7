"""Real daemons for measurements: on loopback, or each in a network namespace with a link of its own.

    with clustered(receivers + 1, capacity=4 << 30, rates=[10, 20, 20]) as cluster:
        source, *receivers = cluster.nodes
        write_files(cluster.root / "data", 48 << 20, 4)
        source.json("create", "nr", str(cluster.root / "data"), "--replicas", "0")

However the block ends, nothing stays: no process, no namespace, no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cached.client import Client

from bench.network import Network, congestion

#: The command line that belongs to this Python.
CACHED: Final = str(Path(sys.executable).with_name("cached"))
#: Seconds that nodes get to become ready, to meet, and to stop.
PATIENCE: Final = 60.0

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
    """One daemon; it may be stopped, continued and ended."""

    name: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Return the daemon's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Return what it has logged."""
        return (self.root / "log").read_text(errors="replace")

    def client(self) -> Client:
        """Return a client of this node; close it."""
        return Client(self.root / "run")

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

    def traffic(self) -> dict[str, int]:
        """Return the payload bytes that its first set has cost: `bytes_sent`, `bytes_received`, `bytes_redundant`."""
        with contextlib.closing(self.client()) as client:
            lines: list[dict[str, int]] = client.status().get("traffic", [])
        return lines[0] if lines else {"bytes_sent": 0, "bytes_received": 0, "bytes_redundant": 0}

    def has(self, name: str) -> bool:
        """Ask the node whether it holds a set."""
        with contextlib.closing(self.client()) as client:
            sets = [one for one in client.list(local=True) if one.name == name]
        return any(
            copy.node == self.name and copy.state == "COMMITTED" for one in sets for copy in one.replicas
        )

    def cpu(self) -> float:
        """Return the CPU seconds of the daemon and its children."""
        total, tick = 0.0, os.sysconf("SC_CLK_TCK")
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self.pid:  # of its session
                        total += (int(fields[11]) + int(fields[12])) / tick
        return total

    def signal(self, number: int) -> None:
        """Send the daemon and its children a signal."""
        os.killpg(self.pid, number)

    def stop(self) -> None:
        """End it in order, or by force when it does not end."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()

    def ended(self) -> None:
        """Wait for the end."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()


@dataclass
class Cluster:
    """The nodes of one run, all below `root`; the first one is what the others know at their start."""

    root: Path
    capacity: int
    encryption: str = "tls"
    network: Network | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start so many nodes, and wait until each knows all others."""
        key = self.root / "key"
        subprocess.run([CACHED, "cluster", "init", "--key-file", str(key)], check=True, capture_output=True)
        self._start(0, key, [])
        self.wait_for(self._all_ready, "a first node that is ready")
        with contextlib.closing(self.nodes[0].client()) as client:
            seed = client.status()["address"]
        for number in range(1, count):
            self._start(number, key, [seed])
        self.wait_for(self._all_ready, "nodes that are ready")
        self.wait_for(self._all_known, "nodes that know each other")

    def _start(self, number: int, key: Path, peers: list[str]) -> None:
        root = self.root / f"n{number}"
        root.mkdir()
        config = CONFIG.format(
            name=f"n{number}",
            root=root,
            host=self.network.address(number) if self.network else "127.0.0.1",
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
                env={**os.environ, **self.environment},
            )
        self.nodes.append(Node(f"n{number}", root, process))

    def wait_for(self, done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Return when `done`; end the program, with the daemons' logs, when it is not within so many seconds."""
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                logs = "\n".join(f"--- {node.name}\n{node.log}" for node in self.nodes)
                raise SystemExit(f"{what}: not within {seconds:.0f} s\n{logs}")
            time.sleep(0.1)

    def cpu(self) -> float:
        """Return the CPU seconds of all daemons."""
        return sum(node.cpu() for node in self.nodes)

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.ended()

    def keep_logs(self, folder: str | Path) -> None:
        """Copy the daemons' logs to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            Path(folder, f"{node.name}.log").write_text(node.log)

    def _all_ready(self) -> bool:
        for node in self.nodes:
            if (code := node.process.poll()) is not None:
                raise SystemExit(f"{node.name} has ended with {code}:\n{node.log}")
        return all(" ready " in node.log for node in self.nodes)

    def _all_known(self) -> bool:
        return all(_alive(node) == len(self.nodes) for node in self.nodes)


def _alive(node: Node) -> int:
    with contextlib.closing(node.client()) as client:
        return sum(seen.alive for seen in client.nodes())


@contextlib.contextmanager
def clustered(
    count: int,
    *,
    capacity: int,
    rates: Sequence[float] = (),
    control: str = "",
    encryption: str = "tls",
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Give a cluster of so many nodes below a new directory of `folder`.

    With `rates` (Mbit/s, of node 0, 1, ...) each node has a network namespace and a link, where TCP's congestion
    `control` is the one named, or the usual one; that needs root.
    """
    with contextlib.ExitStack() as ending:
        root = Path(tempfile.mkdtemp(prefix="cached-bench-", dir=folder))
        ending.callback(remove, root)
        links = Network(list(rates), control or congestion()) if any(rates) else None
        network = ending.enter_context(links) if links is not None else None
        cluster = Cluster(root, capacity, encryption, network, environment or {})
        ending.callback(cluster.stop)
        cluster.start(count)
        yield cluster


def write_files(folder: Path, size: int, files: int) -> None:
    """Write so many files of so many bytes in all, the same bytes each time."""
    folder.mkdir()
    chance = random.Random(size)
    for number in range(files):
        with (folder / f"{number:06d}").open("wb") as out:
            left = size // files + (size % files if number == 0 else 0)
            while left:
                left -= out.write(chance.randbytes(min(left, 1 << 20)))


def remove(root: Path) -> None:
    """Delete a tree, read-only directories included."""
    for folder, below, _ in os.walk(root):
        for name in below:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)

"""Four daemons on loopback, each with a directory of its own, started and ended by this program alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

import msgspec
from cached.client import Client
from cached.errors import CachedError

#: The command line that belongs to this Python.
CACHED: Final = str(Path(sys.executable).with_name("cached"))
#: Seconds that a node gets to become ready, and to stop.
PATIENCE: Final = 120
#: Longest directory below which a Unix socket still has a legal path.
_SHORT: Final = 60

_CONFIG: Final = """\
[node]
name = "{{instance}}"
state_dir = "{work}/{{instance}}/state"
runtime_dir = "{run}/{{instance}}"
listen = "127.0.0.1:0"
bittorrent = "127.0.0.1:0"
[store]
disk = "{work}/{{instance}}/disk"
capacity = "4GB"
memory = ""
[cluster]
key_file = "{work}/cluster.key"
peers = {peers}
mdns = false
[policy]
default_lease = "1h"
max_lease = "{max_lease}"
requirements = {requirements}
[attributes]
Site = "\\"{site}\\""
"""


class CommandFailed(Exception):
    """A command ended otherwise than it should have."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What makes a node different from the others."""

    name: str
    site: str
    max_lease: str
    requirements: str


@dataclass(kw_only=True)
class Running:
    """A daemon that was started here."""

    plan: Plan
    process: subprocess.Popen[bytes]
    log: Path
    address: str = ""


class Cluster:
    """The nodes, and everything that must be gone afterwards. Use it as a context manager."""

    def __init__(self, space: int) -> None:
        self._space = space
        self._dirs: list[Path] = []
        self.work = self.run = Path()
        self.nodes: dict[str, Running] = {}

    def __enter__(self) -> Self:
        self.work = self._make(_roomy(self._space))
        self.run = self.work if len(str(self.work)) <= _SHORT else self._make(Path("/tmp"))
        return self

    def __exit__(self, *_: object) -> None:
        previous = {
            number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._end_all()
        finally:
            for folder in self._dirs:
                _remove(folder)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _make(self, parent: Path) -> Path:
        made = Path(tempfile.mkdtemp(prefix="cached-demo-", dir=parent))
        self._dirs.append(made)
        return made

    def start(self, plan: Plan) -> Running:
        """Start one node; `ready` waits for it."""
        peers = [node.address for node in self.nodes.values() if node.address]
        config = self.work / f"{plan.name}.toml"
        config.write_text(
            _CONFIG.format(
                work=self.work,
                run=self.run,
                peers=json.dumps(peers),
                max_lease=plan.max_lease,
                requirements=json.dumps(plan.requirements),
                site=plan.site,
            )
        )
        log = self.work / f"{plan.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [CACHED, "daemon", "--config", str(config), "--instance", plan.name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(None),
                start_new_session=True,
            )
        node = self.nodes[plan.name] = Running(plan=plan, process=process, log=log)
        return node

    def ready(self, node: Running) -> None:
        """Wait until a node answers. Raises `CommandFailed` with its log when it does not."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and node.process.poll() is None:
            if " ready " in node.log.read_text(errors="replace"):
                node.address = str(self.ask(node.plan.name, "status")["address"])
                return
            time.sleep(0.05)
        raise CommandFailed(f"node {node.plan.name} did not start:\n{node.log.read_text(errors='replace')}")

    def kill(self, name: str) -> None:
        """End a node as a power cut would: SIGKILL, no goodbye."""
        self.nodes[name].process.kill()
        self.nodes[name].process.wait()

    def environment(self, name: str | None) -> dict[str, str]:
        """Return the environment of a user of node `name`: nobody's own settings leak into the demonstration."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CACHED_")}
        kept |= {"PATH": f"{Path(CACHED).parent}:{kept.get('PATH', os.defpath)}", "LC_ALL": "C.UTF-8"}
        return kept if name is None else kept | {"CACHED_RUNTIME_DIR": str(self.run / name)}

    def run_on(
        self, name: str, *words: str, talk: IO[bytes] | int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as a user of one node; stderr goes to `talk`, or is captured."""
        return subprocess.run(
            words,
            env=self.environment(name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if talk is None else talk,
            cwd=self.work,
            timeout=300,
            check=False,
        )

    def ask(self, name: str, verb: str, *arguments: Any) -> Any:
        """Return what a node answers on its socket, as the JSON that `cached VERB --json` would print."""
        client = Client(runtime_dir=self.run / name)
        try:
            return msgspec.to_builtins(getattr(client, verb)(*arguments))
        except CachedError as error:
            raise CommandFailed(f"cached {verb} on {name}: {error.message}") from error
        finally:
            client.close()

    def wait(self, what: str, done: Callable[[], bool], *, patience: float, pause: float = 0.3) -> float:
        """Ask again until it is so; return the seconds it took. Raises `CommandFailed` when it takes too long."""
        start = time.monotonic()
        while not done():
            if time.monotonic() - start > patience:
                raise CommandFailed(f"{what}: not after {patience:.0f} s")
            time.sleep(pause)
        return time.monotonic() - start

    def _end_all(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.process.terminate()
        until = time.monotonic() + PATIENCE
        for node in self.nodes.values():
            try:
                node.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
        leaders = {node.process.pid for node in self.nodes.values()}
        while (left := _of_sessions(leaders)) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        """Return what is still there of the nodes after the end: processes and directories; hopefully nothing."""
        leaders = {node.process.pid for node in self.nodes.values()}
        return [f"process {pid}" for pid in _of_sessions(leaders)] + [
            str(folder) for folder in self._dirs if folder.exists()
        ]


def _of_sessions(leaders: set[int]) -> list[int]:
    """Return the processes of the sessions that the daemons lead: themselves and their children."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in leaders and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _roomy(space: int) -> Path:
    """Return a directory for temporary files with that much room. Raises `SystemExit` without one."""
    for place in dict.fromkeys([Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]):
        with contextlib.suppress(OSError):
            if os.access(place, os.W_OK) and shutil.disk_usage(place).free >= space:
                return place.resolve()
    raise SystemExit(f"make demo needs {space / 1e9:.1f} GB of free space: set TMPDIR to a place that has it")


def _remove(folder: Path) -> None:
    """Delete a tree whose directories may be read-only, as those of committed sets are."""
    for root, below, _ in os.walk(folder):
        for name in below:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)

"""Real daemons on loopback, driven from outside: what the tests of whole nodes and clusters stand on.

    def test_something(cluster):                       # the fixture of conftest.py; `pytestmark = pytest.mark.daemon`
        a = cluster.start("a")                         # returns when the node is ready and api.sock answers
        b = cluster.start("b", store_capacity="100MB", attributes_Site='"nebraska"', env={"CACHED_FAULT": "receive.published:kill"})
        cluster.together()                             # every running node sees every other alive
        a.cli("create", "nr", cluster.root / "data", "--replicas", "1", "--wait")
        assert a.cli("show", "nr").json()["state"] == "COMMITTED"      # .json() asks for --json by itself (see `cli`)
        assert b.cli("show", "none", check=False).returncode == 3      # without check=False a failure raises, with all output
        cluster.wait_for(lambda: b.show("nr")["replicas"], what="a replica on b")
        b.kill(); b.restart()                          # SIGKILL, then the same instance again, on the same state
        b.restart(env={})                              # ... and without the fault
        a.stop()                                       # SIGTERM; asserts exit code 0

- `Cluster.start(name, user=None, wait=True, env=None, host="127.0.0.1", key=True, config=True, **settings)`: a setting is written
  `section_key=value`, as in `store_capacity="1GB"` (values as in the TOML file; lists as TOML text). `user` is a uid or a name: the
  daemon runs as that user, with directories of its own. `host="127.0.0.2"` gives a node an address of its own. Nodes started later
  know the first node's address as their seed. `key=False`: alone, on an authority of its own.
- `Node`: `.name .pid .id .address .log` (text so far) `.directory .disk .memory .state .runtime`; `cli(*args, check=True, user=None,
  input=None, timeout=180, cwd=None, env=None, text=True)`, `spawn(*args, ...)` (a Popen that teardown ends), `http(method, path, body=None, headers=None, user=None)`,
  `client()` (a `cached.client.Client`), `show(ref)`, `nodes()`, `status()`, `kill() stop() restart(**as start) pause() resume() wait_exit()`.
  `restart` keeps the settings that it is not given, except `env`'s CACHED_FAULT, which holds for one start only.
- `cluster.root`: a directory that every user can enter (pytest's own tmp_path is closed to other users); commands run in `cluster.work`; `cluster.tree(name, files)` writes files into it.
- `cluster.wait_for(predicate, seconds=120, what="...")` polls, returns what the predicate returned, and fails with the daemons' logs.
- The end of a test stops every node in order (SIGKILL for what does not end), and fails when a daemon ended with another code than 0 or has
  logged a traceback. A test that provokes one on purpose says so: `node.may_log = r"regular expression of the lines"`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.daemons.node import CACHED, Node, identity, keys, program

#: What a healthy daemon never logs.
WRONG = re.compile(
    r"Traceback \(most recent call last\)|was never awaited|exception was never retrieved|Unclosed "
)

CONFIG = """\
[node]
name = "{{instance}}"
state_dir = "{root}/nodes/{{instance}}/state"
runtime_dir = "{root}/nodes/{{instance}}/run"
listen = "127.0.0.1:0"
bittorrent = "127.0.0.1:0"
[store]
disk = "{root}/nodes/{{instance}}/disk"
capacity = "1GB"
memory = "{memory}/{{instance}}"
memory_capacity = "100MB"
[cluster]
key_file = "{root}/nodes/{{instance}}/key"
mdns = false
"""


class Cluster:
    """Nodes that share one key file and one configuration file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memory = Path("/dev/shm", root.name)
        self.nodes: dict[str, Node] = {}
        self.children: list[subprocess.Popen[Any]] = []
        self.config_file = root / "config.toml"
        self.config_file.write_text(CONFIG.format(root=root, memory=self.memory))
        self.key_file = root / "cluster.key"
        self._seed = ""
        #: Where commands run: empty, and open to all.
        self.work = root / "work"
        self.work.mkdir()
        self.work.chmod(0o1777)
        (root / "logs").mkdir()
        (root / "nodes").mkdir()
        self.memory.mkdir(mode=0o755)

    def start(
        self,
        name: str,
        *,
        user: int | str | None = None,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        host: str = "127.0.0.1",
        key: bool = True,
        **settings: str,
    ) -> Node:
        """Start a node that does not exist yet; see the top of this file."""
        assert name not in self.nodes, f"there is a node {name}: use its restart()"
        node = self.nodes[name] = Node(self, name, user)
        node.directory.mkdir(mode=0o755)
        node.memory.mkdir(mode=0o755)
        if key:
            if not self.key_file.exists():
                self.make_key(self.key_file)
            shutil.copyfile(self.key_file, node.directory / "key")
            (node.directory / "key").chmod(0o600)
        else:
            node.settings["cluster.key_file"] = ""
        if host != "127.0.0.1":
            node.settings |= {"node.listen": f"{host}:0", "node.bittorrent": f"{host}:0"}
        if self._seed and key:
            node.settings["cluster.peers"] = f'["{self._seed}"]'
        node.settings |= keys(settings)
        node.env = dict(env or {})
        node.give_to_its_user()
        node.launch()
        if wait:
            node.wait_ready()
            if key:
                self._seed = self._seed or node.address
        return node

    def make_key(self, path: Path) -> None:
        """Found a cluster of its own."""
        subprocess.run([CACHED, "cluster", "init", "--key-file", str(path)], check=True, capture_output=True)

    def together(self, *nodes: Node, seconds: float = 120) -> None:
        """Wait until each of the nodes (default: all that run) sees each other alive."""
        wanted = nodes or tuple(node for node in self.nodes.values() if node.running)
        ids = {node.id for node in wanted}

        def met() -> bool:
            return all(
                ids <= {seen["id"] for seen in node.http("GET", "/v1/nodes").json()["items"] if seen["alive"]}
                for node in wanted
            )

        self.wait_for(met, seconds, f"{', '.join(node.name for node in wanted)} to see each other")

    def tree(self, name: str, files: Mapping[str, bytes | str]) -> Path:
        """Write files (a path that ends in / is an empty directory) under root/NAME, readable by all; return that directory."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                (folder / path).mkdir()
            else:
                (folder / path).write_bytes(data.encode() if isinstance(data, str) else data)
        return folder

    def wait_for(self, predicate: Callable[[], Any], seconds: float = 120, what: str = "it") -> Any:
        """Poll until the predicate returns something true, and return that; fail with the daemons' logs otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            found = predicate()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s for {what}\n{self.logs()}")
            time.sleep(0.05)

    def environment(self, user: int | str | None = None) -> dict[str, str]:
        """Return the plain environment that daemons and commands run in."""
        home = self.root / f"home-{user if user is not None else os.geteuid()}"
        if not home.exists():
            home.mkdir(mode=0o700)
            if user is not None:
                os.chown(home, identity(user)["user"], identity(user)["group"])
        return {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        } | program(user)[1]

    def logs(self, lines: int = 60) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"--- {node.name} ---\n" + "\n".join(node.log.splitlines()[-lines:])
            for node in self.nodes.values()
        )

    def close(self) -> None:
        """Stop everything in order, and assert that nothing went wrong unseen."""
        wrong: list[str] = []
        try:
            for child in self.children:
                _end(child)
            for node in self.nodes.values():
                if node.running:
                    node.resume()
                    assert node.process is not None
                    node.process.terminate()
            for node in self.nodes.values():
                wrong += self._ended_well(node)
        finally:
            for node in self.nodes.values():
                if node.running:
                    node.kill()
            print(self.logs())  # noqa: T201 - pytest shows it for tests that fail
            shutil.rmtree(self.memory, ignore_errors=True)
            shutil.rmtree(self.root, ignore_errors=True)
        assert not wrong, "\n".join(wrong)

    def _ended_well(self, node: Node) -> list[str]:
        wrong = []
        if node.running:
            try:
                code = node.wait_exit()
            except AssertionError:
                wrong.append(f"{node.name} does not stop")
                os.kill(node.pid, signal.SIGABRT)
            else:
                if code != 0:
                    wrong.append(f"{node.name} ended with {code}")
        lines = node.log.splitlines()
        if any(WRONG.search(line) and not (node.may_log and re.search(node.may_log, line)) for line in lines):
            wrong.append(f"{node.name} logged what a healthy node does not:\n" + "\n".join(lines[-80:]))
        return wrong


def _end(child: subprocess.Popen[Any]) -> None:
    if child.poll() is None:
        child.kill()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.wait()


@contextlib.contextmanager
def running() -> Any:
    """Give a cluster in a new directory, and end it."""
    root = Path(tempfile.mkdtemp(prefix="cd-"))
    root.chmod(0o755)
    cluster = Cluster(root)
    try:
        yield cluster
    finally:
        cluster.close()

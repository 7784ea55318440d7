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
  input=None, timeout=60, cwd=None, env=None, text=True)`, `spawn(*args, ...)` (a Popen that teardown ends), `http(method, path, body=None, headers=None, user=None)`,
  `client()` (a `cached.client.Client`), `show(ref)`, `status()`, `kill() stop() restart(**as start) pause() resume() wait_exit()`.
  `restart` keeps the settings that it is not given, except `env`'s CACHED_FAULT, which holds for one start only.
- `cluster.root`: a directory that every user can enter (pytest's own tmp_path is closed to other users); commands run in `cluster.work`; `cluster.tree(name, files)` writes files into it.
- `cluster.wait_for(predicate, seconds=30, what="...")` polls, returns what the predicate returned, and fails with the daemons' logs.
- The end of a test stops every node in order (SIGKILL for what does not end), and fails when a daemon ended with another code than 0 or has
  logged a traceback. A test that provokes one on purpose says so: `node.may_log = r"regular expression of the lines"`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached.client import Client

CACHED = str(Path(sys.executable).with_name("cached"))
READY = re.compile(r" ready name=(\S+) id=(\S+) address=(\S+) bittorrent=(\d+)")
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


class Failed(AssertionError):
    """A command of the CLI ended otherwise than the test wants."""


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    args: tuple[str, ...]
    returncode: int
    stdout: Any
    stderr: Any

    def json(self) -> Any:
        """Return stdout's JSON value."""
        return json.loads(self.stdout)

    def items(self) -> list[dict[str, Any]]:
        """Return the items of a list."""
        return self.json()["items"]

    @property
    def error(self) -> dict[str, Any]:
        """Return the error on stderr (of a command that was given `--json`)."""
        return json.loads(self.stderr[self.stderr.index("{") :])["error"]


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def identity(user: int | str | None) -> dict[str, Any]:
    """Return what `subprocess` needs to run a program as that user."""
    if user is None:
        return {}
    entry = None
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    if entry is None:
        assert isinstance(user, int), f"there is no user {user}"
        return {"user": user, "group": user, "extra_groups": []}
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": os.getgrouplist(entry.pw_name, entry.pw_gid),
    }


@functools.cache
def program(user: int | str | None) -> tuple[list[str], dict[str, str]]:
    """Return the command `cached` as that user can run it, and the variables that it needs.

    A virtual environment whose interpreter lies in somebody's closed home serves nobody else; then the system's
    interpreter of the same version runs the same code.
    """
    if user is None:
        return [CACHED], {}
    places = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parents[2] / "cli"),
        sysconfig.get_path("platlib"),
    ]
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [
            python,
            "-c",
            "import sys; sys.argv[0] = 'cached'; from cached_cli.main import main; sys.exit(main())",
        ]
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [*command, "--version"],
                check=False,
                capture_output=True,
                env={"PYTHONPATH": ":".join(places)},
                cwd="/",
                **identity(user),
            )
            if tried.returncode == 0:
                return command, {"PYTHONPATH": ":".join(places)}
    raise AssertionError(
        f"no interpreter here can be run by {user}: {sys.executable} lies in a closed directory, and there is no other"
    )


class Node:
    """One daemon, over its restarts."""

    def __init__(self, cluster: Cluster, name: str, user: int | str | None) -> None:
        self.cluster = cluster
        self.name = name
        self.user = user
        self.directory = cluster.root / "nodes" / name
        self.state = self.directory / "state"
        self.runtime = self.directory / "run"
        self.disk = self.directory / "disk"
        self.memory = cluster.memory / name
        self.settings: dict[str, str] = {}
        self.env: dict[str, str] = {}
        self.config = True
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.id = ""
        #: Lines that match may stand in the log although they look wrong.
        self.may_log: str | None = None
        self._log = cluster.root / "logs" / f"{name}.log"
        self._started_at = 0

    # -- the process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """Everything that this node has logged, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def last_log(self) -> str:
        """What it has logged since its last start."""
        return self.log[self._started_at :]

    def command(self) -> list[str]:
        """Return the command line that starts this daemon."""
        flags = [word for key, value in self.settings.items() for word in ("--set", f"{key}={value}")]
        named = ["--config", str(self.cluster.config_file)] if self.config else []
        return [
            *program(self.user)[0],
            "daemon",
            *named,
            *(["--instance", self.name] if self.config else []),
            *flags,
        ]

    def launch(self, **more: Any) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it; `more` goes to Popen."""
        assert not self.running, f"{self.name} runs already"
        self._started_at = len(self.log)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.cluster.environment(self.user) | self.env, cwd=self.cluster.root, start_new_session=True,
                **identity(self.user), **more,
            )  # fmt: skip
        return self.process

    def give_to_its_user(self) -> None:
        """Let the daemon's user own its directories."""
        if self.user is not None:
            who = identity(self.user)
            for path in (self.directory, self.memory, *self.directory.iterdir()):
                os.chown(path, who["user"], who["group"])

    def wait_ready(self, seconds: float = 30) -> None:
        """Return when the daemon says that it is ready and api.sock answers."""
        found = self.cluster.wait_for(
            lambda: self._exited() or READY.search(self.last_log), seconds, f"{self.name} to be ready"
        )
        assert isinstance(found, re.Match), (
            f"{self.name} ended with {self.process and self.process.returncode}:\n{self.last_log}"
        )
        self.address = found[3]
        assert self.http("GET", "/v1/status").status == 200
        self.id = self.status()["id"]

    def _exited(self) -> bool:
        return not self.running

    def kill(self) -> None:
        """SIGKILL: the daemon ends as in a power loss, but for the page cache."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; asserts that it ends in order, with exit code 0."""
        assert self.process is not None
        self.process.terminate()
        assert self.wait_exit() == 0, f"{self.name} ended with {self.process.returncode}:\n{self.last_log}"

    def wait_exit(self, seconds: float = 30) -> int:
        """Wait until the process ends by itself (a fault point, for one), and return its code (-9: killed)."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s:\n{self.last_log}") from None

    def restart(self, *, wait: bool = True, env: Mapping[str, str] | None = None, **settings: str) -> None:
        """Start it again with what it had (its fault plan excepted), and with what is given here."""
        if self.running:
            self.stop()
        self.env = {key: value for key, value in self.env.items() if key != "CACHED_FAULT"} | dict(env or {})
        self.settings |= _keys(settings)
        self.launch()
        if wait:
            self.wait_ready()

    def pause(self) -> None:
        """SIGSTOP: the node is silent, its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    # -- talking to it

    def cli(
        self,
        *args: object,
        check: bool = True,
        user: int | str | None = None,
        input: Any = None,  # noqa: A002 - as subprocess calls it
        timeout: float = 60,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = True,
    ) -> Result:
        """Run `cached ARGS` against this node. `.json()` of the result needs no `--json`: it is added where a command may have it."""
        words = self._words(args, user)
        ended = subprocess.run(
            words, check=False, capture_output=True, text=text, input=input, timeout=timeout, cwd=cwd or self.cluster.work,
            env=self._client_env(user, env), **({} if input is not None else {"stdin": subprocess.DEVNULL}), **identity(user),
        )  # fmt: skip
        result = Result(tuple(map(str, args)), ended.returncode, ended.stdout, ended.stderr)
        if check and result.returncode != 0:
            raise Failed(
                f"{' '.join(words)} on {self.name} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
            )
        return result

    def spawn(
        self, *args: object, user: int | str | None = None, cwd: Path | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start `cached ARGS` and leave it running, with pipes to it; the end of the test ends it."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running: subprocess.Popen[str] = subprocess.Popen(
            self._words(args, user), cwd=cwd or self.cluster.work, env=self._client_env(user, more.pop("env", None)),
            **(pipes | more), **identity(user),
        )  # fmt: skip
        self.cluster.children.append(running)
        return running

    def _words(self, args: tuple[object, ...], user: int | str | None) -> list[str]:
        words = [str(arg) for arg in args]
        plain = words[0] in ("exec", "cat") or "--json" in words
        return [*program(user)[0], *words] if plain else [*program(user)[0], words[0], "--json", *words[1:]]

    def _client_env(self, user: int | str | None, env: Mapping[str, str] | None) -> dict[str, str]:
        return self.cluster.environment(user) | {"CACHED_RUNTIME_DIR": str(self.runtime)} | dict(env or {})

    def http(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one HTTP request to api.sock; a body that is not bytes goes as JSON."""
        connection = _UnixConnection(self.runtime / "api.sock")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def client(self) -> Client:
        """Return a new client of this node; close it."""
        return Client(runtime_dir=self.runtime)

    def show(self, ref: str, **how: Any) -> dict[str, Any]:
        """Return the set as `cached show` does; {} when it is not there."""
        result = self.cli("show", ref, check=False, **how)
        if result.returncode == 3:
            return {}
        assert result.returncode == 0, result.stderr
        return result.json()

    def status(self) -> dict[str, Any]:
        """Return what `cached status` says."""
        answer = self.http("GET", "/v1/status")
        assert answer.status == 200, answer.body
        return answer.json()


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
        node.settings |= _keys(settings)
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

    def together(self, *nodes: Node, seconds: float = 30) -> None:
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

    def wait_for(self, predicate: Callable[[], Any], seconds: float = 30, what: str = "it") -> Any:
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
                code = node.wait_exit(20)
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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _keys(settings: Mapping[str, str]) -> dict[str, str]:
    """Turn `store_capacity` into `store.capacity`."""
    return {"{}.{}".format(*key.split("_", 1)): value for key, value in settings.items()}


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

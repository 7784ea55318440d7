"""One real daemon, and the commands and requests that drive it from outside (see `tests.daemons.cluster`)."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cached.client import Client

if TYPE_CHECKING:
    from tests.daemons.cluster import Cluster

CACHED = str(Path(sys.executable).with_name("cached"))
READY = re.compile(r" ready name=(\S+) id=(\S+) address=(\S+) bittorrent=(\d+)")


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

    def wait_ready(self, seconds: float = 120) -> None:
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

    def wait_exit(self, seconds: float = 120) -> int:
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
        self.settings |= keys(settings)
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
        timeout: float = 180,
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
        """Return the set as `cached show` does; {} when it is not there. Polling with a command keeps a processor busy."""
        if how:
            result = self.cli("show", ref, check=False, **how)
            assert result.returncode in (0, 3), result.stderr
            return result.json() if result.returncode == 0 else {}
        answer = self.http("GET", f"/v1/sets/{urllib.parse.quote(ref, safe='')}")
        assert answer.status in (200, 404), answer.body
        return answer.json() if answer.status == 200 else {}

    def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes that it knows, as `cached nodes` does."""
        return self.http("GET", "/v1/nodes").json()["items"]

    def status(self) -> dict[str, Any]:
        """Return what `cached status` says."""
        answer = self.http("GET", "/v1/status")
        assert answer.status == 200, answer.body
        return answer.json()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def keys(settings: Mapping[str, str]) -> dict[str, str]:
    """Turn `store_capacity` into `store.capacity`."""
    return {"{}.{}".format(*key.split("_", 1)): value for key, value in settings.items()}

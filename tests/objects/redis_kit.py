"""Real Redis servers and a small Redis Cluster on loopback, for as long as a test needs them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from cached.objects.redis import RedisTier
from cached.objects.redis_slots import SLOTS

SECRET = b"s" * 32
#: Seconds that a loaded machine may take for anything.
PATIENCE = 60.0
#: A cache as it should be: bounded, dropping what is wanted least, keeping nothing on disk.
CACHE = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu")

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One redis-server: started, killed, frozen and thawed by its pid."""

    def __init__(
        self, folder: Path, *options: str, tls: bool = False, cluster: bool = False, user: str = ""
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.options, self.tls, self.cluster = folder, options, tls, cluster
        self.user, _, self.password = user.partition(":")
        self.socket = folder / "redis.sock"
        self.port = self.bus = 0
        self.process: subprocess.Popen[bytes] | None = None
        for _ in range(10):  # another test may have taken the port meanwhile
            self.port, self.bus = free_port(), free_port()
            with contextlib.suppress(ChildProcessError):
                self.start()
                return
        pytest.fail(f"redis-server does not start: {(folder / 'log').read_text()[-2000:]}")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    def raw(self) -> redis.Redis:
        """Return a client that speaks past the tier, through the socket."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            username=self.user or None,
            password=self.password or None,
            protocol=2,
        )

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--dir", str(self.folder), "--appendonly", "no"]
        command += ["--unixsocket", str(self.socket), "--logfile", str(self.folder / "log"), "--save", ""]
        command += ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        if self.cluster:
            command += ["--cluster-enabled", "yes", "--cluster-port", str(self.bus)]
        self.process = subprocess.Popen([*command, *self.options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ChildProcessError(self.process.returncode)
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.raw() as raw:
                if raw.ping():
                    return
            time.sleep(0.02)
        self.kill()
        raise ChildProcessError("no answer")

    def kill(self) -> None:
        """End it as a crash would; what it held is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


class Cluster:
    """Three masters without replicas, each with a third of the slots."""

    def __init__(self, folder: Path, *options: str) -> None:
        # Nobody is declared dead while a test runs: what a lost master costs is seen at once.
        fixed = ("--cluster-node-timeout", "600000", "--cluster-require-full-coverage", "no", *CACHE)
        self.servers: list[Server] = []
        try:
            for number in range(3):
                self.servers.append(Server(folder / f"{number}", *fixed, *options, cluster=True))
            self._join()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return self.servers[0].url

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def _join(self) -> None:
        bounds = [SLOTS * number // 3 for number in range(4)]
        for number, server in enumerate(self.servers):
            with server.raw() as raw:
                raw.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                raw.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        with self.servers[0].raw() as raw:
            for other in self.servers[1:]:
                raw.execute_command("CLUSTER MEET", "127.0.0.1", other.port, other.bus)
        until(lambda: all(self._complete(server) for server in self.servers))

    @staticmethod
    def _complete(server: Server) -> bool:
        with server.raw() as raw:
            slots = raw.execute_command("CLUSTER SLOTS")
            facts = raw.cluster("info")
        return len(slots) == 3 and facts["cluster_state"] == "ok"


class Watched(RedisTier):
    """A tier that remembers what it counted and said; patient unless a test wants to see a time-out."""

    def __init__(
        self, url: str, secret: bytes | None = SECRET, *, timeout: float = PATIENCE, **options
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: list[tuple[str, str]] = []

        def count(event: str) -> None:
            self.counts[event] += 1

        super().__init__(
            url,
            secret,
            timeout=timeout,
            count=count,
            note=lambda event, words: self.notes.append((event, words)),
            **options,
        )

    def noted(self) -> list[str]:
        return [event for event, _ in self.notes]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; it may be a plain function or make an awaitable."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)

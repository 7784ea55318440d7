"""The real socket servers over a fake node, in a thread of their own, and a small tree to serve."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cached.api import sockets
from cached.api.auth import Callers
from cached.api.handles import HandleServer
from cached.api.local import LocalServer
from cached.api.metrics import ApiMetrics
from cached.api.verbs import Verbs
from cached.errors import NoSpace
from cached.storage.files import open_spool
from prometheus_client import CollectorRegistry
from tests.api.fake_node import FakeNode


class Spooled:
    """A file for a body, as a node gives it."""

    def __init__(self, descriptor: int, most: int) -> None:
        self.descriptor = descriptor
        self._most = most

    async def make_room(self, size: int) -> None:
        if size > self._most:
            raise NoSpace(f"{size} bytes are needed, {self._most} are free")


class Daemon:
    """The real socket servers over a fake node, in a thread with an event loop of its own."""

    def __init__(
        self, folder: Path, *, admins: Sequence[str] = ("root",), http_connections: int = 64, **limits: int
    ) -> None:
        self.runtime = folder / "run"
        self.runtime.mkdir(parents=True, exist_ok=True)
        self.root = folder / "store"
        self.root.mkdir(exist_ok=True)
        self._admins = admins
        self._limits = limits
        self._http_connections = http_connections
        #: Bytes of one body that there is room for.
        self.most_spooled = 1 << 40
        self._started = threading.Event()
        self.node: FakeNode
        self.loop: asyncio.AbstractEventLoop
        self.handles: HandleServer
        self.verbs: Verbs
        self._stop: asyncio.Event

    def start(self) -> Daemon:
        self._started.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(120)
        return self

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        before = getattr(self, "node", None)
        self.node = FakeNode(self.root)
        if before is not None:
            self.node.sets = before.sets
            self.node.cloud.objects = before.cloud.objects
        callers = Callers(admins=self._admins)
        counted, registry = ApiMetrics(), CollectorRegistry()
        registry.register(counted)
        data = sockets.listen(self.runtime / "data.sock", sockets.PACKETS)
        api = sockets.listen(self.runtime / "api.sock", sockets.STREAM)
        self.verbs = self.node.verbs()
        self.handles = HandleServer(self.verbs, callers, metrics=counted, **self._limits)
        local = LocalServer(
            self.verbs,
            callers,
            counted=counted,
            registry=registry,
            connections_per_user=self._http_connections,
            spool=lambda _caller, size: self.spooled(size),
        )
        self.handles.start(data)
        await local.start(api)
        self._started.set()
        await self._stop.wait()
        await self.handles.close()
        await local.close()
        data.close()
        api.close()

    @contextlib.asynccontextmanager
    async def spooled(self, size: int) -> AsyncIterator[Spooled]:
        """Give a file that may have `most_spooled` bytes."""
        fd = open_spool(self.root)
        try:
            made = Spooled(fd, self.most_spooled)
            await made.make_room(size)
            yield made
        finally:
            os.close(fd)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)
        assert not self._thread.is_alive()

    def hold(self) -> None:
        """Close the gate: long work waits."""
        self.loop.call_soon_threadsafe(self.node.gate.clear)
        self.loop.call_soon_threadsafe(self.node.cloud.gate.clear)
        self.settle()

    def go_on(self) -> None:
        self.loop.call_soon_threadsafe(self.node.gate.set)
        self.loop.call_soon_threadsafe(self.node.cloud.gate.set)

    def settle(self) -> None:
        """Let the loop run through what is ready."""
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(60)

    def until(self, fact: Callable[[], bool]) -> None:
        """Wait until something is so."""

        async def poll() -> None:
            while not fact():
                await asyncio.sleep(0.005)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(poll(), 60), self.loop).result(90)


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Daemon]:
    daemon = Daemon(folder, **options).start()
    try:
        yield daemon
    finally:
        daemon.go_on()
        daemon.stop()


def plant(folder: Path) -> Path:
    """Write a small tree with one of everything."""
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "empty-dir").mkdir()
    (folder / "a.txt").write_bytes(b"hello, world\n")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "sub" / "empty").write_bytes(b"")
    (folder / "sub" / "deep" / "ünï \U0001f40d.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "sub" / "link").symlink_to("../a.txt")
    os.utime(folder / "a.txt", ns=(10**18, 10**18 + 5))
    return folder

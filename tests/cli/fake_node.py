"""A node for the tests of the command line: the real local sockets, in front of plain directories."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached import wire
from cached.api import sockets
from cached.api.auth import Callers
from cached.api.handles import HandleServer
from cached.api.local import LocalServer
from cached.api.metrics import ApiMetrics
from cached.api.verbs import Verbs
from cached.errors import NotFound
from prometheus_client import CollectorRegistry
from tests.cli.conftest import replica, set_view


@dataclass
class Grant:
    """The lease that everybody gets."""

    seconds: int = 86_400
    shortened: bool = False
    reason: str = ""


@dataclass
class Opened:
    """An open file or directory."""

    set: wire.SetHead
    kind: str
    size: int
    executable: bool
    fd: int
    pin: str
    root: str = ""


@dataclass
class FakeNode:
    """Keeps sets as directories below `home`; what it is asked can be looked at."""

    home: Path
    sets: dict[str, wire.SetView] = field(default_factory=dict)
    #: Names of sets that must be fetched first.
    absent: set[str] = field(default_factory=set)
    #: Open pins by set id.
    pins: Counter[str] = field(default_factory=Counter)
    fetched: list[str] = field(default_factory=list)
    #: Creations wait while this is not set.
    may_copy: threading.Event = field(default_factory=threading.Event)
    aborted: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.home.mkdir(mode=0o700)
        self.may_copy.set()

    def verbs(self) -> Verbs:
        """Return what the sockets call."""
        unasked = dict.fromkeys(
            (
                "update",
                "extend",
                "delete",
                "replicate",
                "verify",
                "match",
                "usage",
                "limits",
                "limit",
                "locate",
            )
        )
        return Verbs(
            open_now=lambda _caller, _ref, _path: None,
            open_path=self.open_path,
            release=self.release,
            begin=self.begin,
            list_sets=self.list_sets,
            show=self.show,
            files=self.files,
            fetch=self.fetch,
            nodes=self.nodes,
            status=self.status,
            **dict.fromkeys(unasked, self.never),
        )

    def find(self, ref: Any) -> wire.SetView:
        """Resolve a reference."""
        for name, view in self.sets.items():
            if name == ref.name or (ref.id_prefix and view.id.startswith(ref.id_prefix)):
                return view
        raise NotFound(f"there is no set {ref}")

    async def open_path(self, _caller: Any, ref: Any, path: str, *, fetch: bool, progress: Any) -> Opened:
        view = self.find(ref)
        if view.name in self.absent:
            if not fetch:
                raise NotFound(f"this node has no replica of {view.name}")
            await self.fetch(_caller, ref, progress)
        try:
            descriptor = os.open(self.home / view.id / path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise NotFound(f"{view.name} has no {path}") from error
        facts = os.fstat(descriptor)
        is_dir = os.path.isdir(f"/proc/self/fd/{descriptor}")
        self.pins[view.id] += 1
        head = wire.SetHead(id=view.id, name=view.name, owner=view.owner, content=view.content)
        size = 0 if is_dir else facts.st_size
        return Opened(
            head, "dir" if is_dir else "file", size, bool(facts.st_mode & 0o100), descriptor, view.id
        )

    def release(self, pin: str) -> None:
        self.pins[pin] -= 1

    async def fetch(self, _caller: Any, ref: Any, report: Any) -> wire.ReplicateReply:
        view = self.find(ref)
        if view.name in self.absent:
            self.absent.remove(view.name)
            self.fetched.append(view.name)
            if report is not None:
                report(wire.Progress(bytes_present=1, bytes_wanted=view.bytes, state="TRANSFERRING"))
        return wire.ReplicateReply(items=[replica("n1")], complete=True, wanted=1, have=1)

    async def begin(self, _caller: Any, name: str, options: Any, _bytes: int, _files: int) -> Creation:
        return Creation(self, name, options)

    async def list_sets(self, _caller: Any, _local: bool) -> Sequence[wire.SetView]:
        return list(self.sets.values())

    async def show(self, _caller: Any, ref: Any) -> wire.SetView:
        return self.find(ref)

    async def files(self, _caller: Any, ref: Any) -> Sequence[wire.FileView]:
        root = self.home / self.find(ref).id
        return [
            wire.FileView(
                path=str(path.relative_to(root)),
                kind="dir" if path.is_dir() else "file",
                size=0 if path.is_dir() else path.stat().st_size,
            )
            for path in sorted(root.rglob("*"))
        ]

    async def nodes(self, _caller: Any) -> Sequence[wire.NodeView]:
        return []

    async def status(self, _caller: Any) -> dict[str, Any]:
        return {"pins": sum(self.pins.values())}

    async def never(self, *_args: Any, **_settings: Any) -> Any:
        raise NotFound("this node does not do that")


class Creation:
    """One set that is handed over."""

    txid = "tx"

    def __init__(self, node: FakeNode, name: str, options: wire.CreateOptions) -> None:
        self._node = node
        self._name = name
        self._options = options
        self._id = uuid.uuid4().hex
        self._root = node.home / self._id
        self._root.mkdir()
        self.grant = Grant()
        self.bytes_done = 0
        self.files_done = 0
        self.upload = None

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        files = iter(fds)
        while not self._node.may_copy.is_set():
            await asyncio.sleep(0.01)
        for entry in entries:
            target = self._root / entry.path
            if entry.kind == "dir":
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(next(files), "rb") as source, target.open("xb") as goal:
                shutil.copyfileobj(source, goal)
            target.chmod(0o555 if entry.executable else 0o444)
            self.bytes_done += entry.size
            self.files_done += 1

    async def ahead(self) -> None:
        """Nothing of it is in an origin."""

    async def seal(self) -> wire.SetView:
        view = set_view(name=self._name, id=self._id, bytes=self.bytes_done, files=self.files_done)
        self._node.sets[self._name] = view
        return view

    async def kept(self) -> wire.SetView:
        return self._node.sets[self._name]

    async def abort(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._node.aborted.set()


@contextlib.contextmanager
def serving(node: FakeNode, runtime_dir: Path) -> Iterator[None]:
    """Serve a node's sockets from a thread."""
    up, loops = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        counted = ApiMetrics()
        callers = Callers(admins=[])
        api = sockets.listen(runtime_dir / "api.sock", socket.SOCK_STREAM)
        data = sockets.listen(runtime_dir / "data.sock", socket.SOCK_SEQPACKET)
        local = LocalServer(node.verbs(), callers, counted=counted, registry=CollectorRegistry())
        handles = HandleServer(node.verbs(), callers, metrics=counted)
        await local.start(api)
        handles.start(data)
        loops.append((asyncio.get_running_loop(), stop))
        up.set()
        await stop.wait()
        await handles.close()
        await local.close()
        api.close()
        data.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert up.wait(120)
    try:
        yield
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(120)

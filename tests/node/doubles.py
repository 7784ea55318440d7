"""The fakes beneath a node under test: clock, matching, swarm, link and directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cached.budget import Budget
from cached.errors import CachedError, NoSource, PeerUnreachable
from cached.leases.deadline import Moment
from cached.matching.verdict import AGREED, Verdict
from cached.peers.records import HolderEntry, NodeContents, NodeEntry, NodeRecord, Peer
from cached.replication.throttle import Throttle
from cached.replication.transfer import FetchJob, Traffic

BOOT = "00000000-0000-0000-0000-000000000001"


@dataclass
class FakeClock:
    boot_id: str = BOOT
    boottime: float = 1000.0
    wall: float = 1_700_000_000.0

    def now(self) -> Moment:
        return Moment(boot_id=self.boot_id, boottime=self.boottime, wall=self.wall)

    def pass_(self, seconds: float) -> None:
        self.boottime += seconds
        self.wall += seconds


@dataclass
class FakeMatchmaker:
    """Agrees to everything, unless `judge(set ad, node ad)` gives a reason against it."""

    judge: Callable[[Mapping[str, Any], Mapping[str, Any]], str] = lambda _set, _node: ""
    checked: list[str] = field(default_factory=list)

    async def check(self, expression: str) -> None:
        self.checked.append(expression)

    async def match(self, pairs: Iterable[tuple[Any, Any]]) -> list[Verdict]:
        reasons = [self.judge(left, right) for left, right in pairs]
        return [Verdict(False, False, True, (reason,)) if reason else AGREED for reason in reasons]


class FakeSwarm:
    """A node without BitTorrent."""

    def __init__(self) -> None:
        self.unseeded: list[str] = []
        self.fetches = 0
        self.jobs: list[FetchJob] = []
        self.encrypted = True
        #: Content -> bytes sent, of what is in the swarm.
        self.seeded: dict[str, int] = {}
        #: Contents that were put into the swarm, and the size of their pieces.
        self.put: list[tuple[str, int]] = []
        self.throttle = Throttle()

    def given(self) -> list[str]:
        return sorted(self.seeded)

    def parameters(self, _content: str) -> None:
        return None

    async def seed(self, content: str, *more: Any) -> dict[str, Any]:
        self.put.append((content, more[-1]))
        return {}

    async def unseed(self, content: str) -> None:
        self.unseeded.append(content)
        self.seeded.pop(content, None)

    async def stats(self, content: str) -> Traffic:
        return Traffic(uploaded=self.seeded.get(content, 0))

    async def fetch(self, job: FetchJob, *_: Any) -> None:
        self.fetches += 1
        self.jobs.append(job)
        raise NoSource("this node has no BitTorrent")

    def rpc_handlers(self) -> dict[str, Any]:
        return {}


class _Chunks:
    """The writer of a stream, read at the other end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | CachedError | None] = asyncio.Queue(8)

    def length(self, _: int) -> None:
        return None

    async def write(self, data: bytes | memoryview) -> None:
        await self.queue.put(bytes(data))


@contextlib.contextmanager
def in_time(node_id: str) -> Iterator[None]:
    """Say it as the real link does when an answer does not come in time."""
    try:
        yield
    except TimeoutError:
        raise PeerUnreachable(f"node {node_id[:8]} did not answer in time") from None


class FakeLink:
    """Calls go straight to the other node's handlers, through the JSON that would travel."""

    def __init__(self, world: Any, name: str) -> None:
        self.upload, self.download = Budget(), Budget()
        self.world = world
        self.name = name
        self.methods: dict[str, Any] = {}
        self.streams: dict[str, Any] = {}
        #: (node, method) of every call.
        self.calls: list[tuple[str, str]] = []
        #: Awaited before a call is delivered: a test may hold it, or raise.
        self.before: Callable[[str, str], Any] | None = None

    def handle(self, method: str, handler: Any) -> None:
        self.methods[method] = handler

    def stream(self, name: str, handler: Any) -> None:
        self.streams[name] = handler

    def _peer(self) -> Peer:
        me = self.world.nodes[self.name]
        return Peer(node_id=me.id, domains=me.identity.domains)

    async def _reach(self, node_id: str, what: str) -> FakeLink:
        self.calls.append((node_id, what))
        if self.before is not None:
            await self.before(node_id, what)
        for name, node in self.world.nodes.items():
            if node.id == node_id and name not in self.world.down:
                return node.link  # type: ignore[return-value]
        raise PeerUnreachable(f"node {node_id[:8]} does not answer")

    async def call(self, node_id: str, method: str, body: Any, timeout: float = 10.0) -> Any:
        other = await self._reach(node_id, method)
        sent = msgspec.json.decode(msgspec.json.encode(body))
        with in_time(node_id):
            async with asyncio.timeout(timeout):
                answer = await other.methods[method](self._peer(), sent)
        return msgspec.json.decode(msgspec.json.encode(answer))

    async def fetch(
        self, node_id: str, stream: str, query: Any, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        other = await self._reach(node_id, stream)
        chunks = _Chunks()

        async def serve() -> None:
            try:
                await other.streams[stream](self._peer(), query, chunks)
            except CachedError as error:
                await chunks.queue.put(error)
            else:
                await chunks.queue.put(None)

        task = asyncio.create_task(serve())
        try:
            while True:
                with in_time(node_id):
                    chunk = await asyncio.wait_for(chunks.queue.get(), timeout)
                if chunk is None:
                    return
                if isinstance(chunk, CachedError):
                    raise chunk
                yield chunk
        finally:
            task.cancel()
            await asyncio.wait({task})


class FakeDirectory:
    """Everybody knows what everybody published last."""

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.name = name
        self.address = f"{name}.test:7400"
        self.reachable = True
        self.published = NodeContents()
        self.announced: list[str] = []
        #: How long each piece of news might wait.
        self.waits: list[float | None] = []

    def publish(self, contents: NodeContents, within: float | None = None) -> None:
        if contents != self.published:
            self.waits.append(within)
        self.published = contents

    def announce(self, set_ids: Iterable[str], within: float | None = None) -> None:
        self.announced.extend(set_ids)

    def _entry(self) -> NodeEntry:
        node, said = self.world.nodes[self.name], self.published
        record = NodeRecord(
            id=node.id,
            name=self.name,
            address=self.address,
            incarnation=1,
            version=1,
            host=said.host,
            bittorrent_port=said.bittorrent_port,
            ad=said.ad,
            capacity_bytes=said.capacity_bytes,
            free_bytes=said.free_bytes,
            replicas=said.replicas,
            tombstones=said.tombstones,
        )
        return NodeEntry(
            record=record,
            alive=self.name not in self.world.down,
            age=0.0,
            record_age=0.0,
            domains=node.identity.domains,
        )

    def nodes(self) -> list[NodeEntry]:
        others = [node.directory for name, node in self.world.nodes.items() if name != self.name]
        return [one._entry() for one in (self, *others)]  # type: ignore[attr-defined]

    def node(self, name: str) -> NodeEntry | None:
        return next((e for e in self.nodes() if name in (e.record.id, e.record.name)), None)

    def mark(self, _set_id: str) -> object:
        return object()

    def holding(self, set_id: str) -> set[str]:
        return {entry.node.record.id for entry in self.holders(set_id)} - {self.world.nodes[self.name].id}

    def holders(self, set_id: str) -> list[HolderEntry]:
        return [
            HolderEntry(node=entry, holding=holding)
            for entry in self.nodes()
            for holding in entry.record.replicas
            if holding.set_id == set_id
        ]

    def age_seconds(self) -> float:
        return 0.0

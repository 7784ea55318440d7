"""Whole nodes without daemons: real catalog, stores, identity and use cases; link, directory, swarm and matching are fakes.

async def story():
    async with world(tmp_path) as w:
        a, b = w.node("a"), w.node("b")
        view = await create_set(a, alice, "nr", {"f": b"bytes"})
        w.gossip()
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cached import wire
from cached.api.peer import PeerApi
from cached.catalog.sqlite import Catalog
from cached.config.values import (
    ClusterConfig,
    Config,
    NodeConfig,
    PolicyConfig,
    ReplicationConfig,
    StoreConfig,
)
from cached.errors import CachedError, NoSource, PeerUnreachable
from cached.leases import deadline
from cached.leases.deadline import Moment
from cached.matching.ads import NodeFacts
from cached.matching.verdict import AGREED, Verdict
from cached.node import announce, book, create, recover, retire, sweep
from cached.node.caller import Caller
from cached.node.consents import Consents
from cached.node.counters import Counters
from cached.node.node import Node
from cached.node.pins import Pins
from cached.node.seeding import served
from cached.node.shelf import Known, Shelf
from cached.node.space import Space
from cached.peers.authority import init_cluster
from cached.peers.identity import Identity
from cached.peers.records import HolderEntry, NodeContents, NodeEntry, NodeRecord, Peer
from cached.replication.direct import Direct, DirectServer
from cached.replication.transfer import Traffic
from cached.sets.set import SetRecord, SignedRecord
from cached.storage.disk import Store
from cached.storage.pinlog import PinLog

DAY = 86_400
BOOT = "00000000-0000-0000-0000-000000000001"
_numbers = itertools.count(1)


def caller(user: str, *groups: str, admin: bool = False, pid: int = 0) -> Caller:
    """A local user; each call is another process unless `pid` says which."""
    number = pid or next(_numbers) + 100_000
    return Caller(
        uid=1000, gid=1000, user=user, groups=frozenset(groups), admin=admin, pid=number, start_time=7
    )


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
        self.encrypted = True
        #: Content -> bytes sent, of what is in the swarm.
        self.seeded: dict[str, int] = {}

    def given(self) -> list[str]:
        return sorted(self.seeded)

    def parameters(self, _content: str) -> None:
        return None

    async def seed(self, *_: Any) -> dict[str, Any]:
        return {}

    async def unseed(self, content: str) -> None:
        self.unseeded.append(content)
        self.seeded.pop(content, None)

    async def stats(self, content: str) -> Traffic:
        return Traffic(uploaded=self.seeded.get(content, 0))

    async def fetch(self, *_: Any) -> None:
        self.fetches += 1
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


class FakeLink:
    """Calls go straight to the other node's handlers, through the JSON that would travel."""

    def __init__(self, world: World, name: str) -> None:
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
            while (chunk := await asyncio.wait_for(chunks.queue.get(), timeout)) is not None:
                if isinstance(chunk, CachedError):
                    raise chunk
                yield chunk
        finally:
            task.cancel()
            await asyncio.wait({task})


class FakeDirectory:
    """Everybody knows what everybody published last."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.address = f"{name}.test:7400"
        self.reachable = True
        self.published = NodeContents()
        self.announced: list[str] = []

    def publish(self, contents: NodeContents) -> None:
        self.published = contents

    def announce(self, set_ids: Iterable[str]) -> None:
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

    def holders(self, set_id: str) -> list[HolderEntry]:
        return [
            HolderEntry(node=entry, holding=holding)
            for entry in self.nodes()
            for holding in entry.record.replicas
            if holding.set_id == set_id
        ]

    def age_seconds(self) -> float:
        return 0.0


@dataclass
class World:
    """Some nodes of one cluster, all in this process."""

    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    nodes: dict[str, Node] = field(default_factory=dict)
    books: dict[str, book.Book] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    alive: Callable[[Any], bool] = lambda _process: True

    async def node(self, name: str, *, memory: bool = False, domain: str = "", **config: Any) -> Node:
        """Start a node; `config` as of `configured`."""
        home = self.root / name
        home.mkdir(exist_ok=True)
        settings = configured(home, memory=memory, **config)
        key = self.root / "cluster.key"
        if not key.exists():
            init_cluster(key)
        identity = Identity.open(home / "state", key_file=key, user_domain=domain)
        catalog = Catalog.open(home / "catalog.db", self.clock)
        stores: dict[Any, Store] = {"disk": Store(home / "disk", "disk", headroom=0)}
        if memory:
            stores["memory"] = Store(home / "memory", "memory", headroom=0)
        for store in stores.values():
            store.open_lock()
        shelf = Shelf(catalog=catalog)
        shelf.load()
        pins = Pins(PinLog(home / "pins", self.clock.boot_id), self.alive)
        pins.load()
        link, directory, consents = FakeLink(self, name), FakeDirectory(self, name), Consents()
        node = Node(
            config=settings,
            identity=identity,
            clock=self.clock,
            new_id=lambda: os.urandom(16).hex(),
            catalog=catalog,
            shelf=shelf,
            stores=stores,
            space=Space(
                catalog=catalog,
                shelf=shelf,
                stores=stores,
                limits={"disk": settings.store.capacity, "memory": settings.store.memory_capacity},
                quota=settings.policy.quota,
            ),
            pins=pins,
            matchmaker=FakeMatchmaker(),  # type: ignore[arg-type]
            link=link,  # type: ignore[arg-type]
            directory=directory,  # type: ignore[arg-type]
            swarm=FakeSwarm(),  # type: ignore[arg-type]
            direct=Direct(fetch_stream=link.fetch, patience=1.0),
            direct_server=DirectServer(
                lookup=lambda content: served(node, content), allowed=consents.allowed
            ),
            counters=Counters(),
            facts=_facts(name),
            host=name,
            started=self.clock.now(),
            consents=consents,
        )
        self.nodes[name] = node
        records = self.books[name] = book.Book()
        shelf.held_elsewhere = lambda set_id: announce.held_elsewhere(node, set_id)
        records.bind(node)
        node.space.make_room = lambda tier, wanted: sweep.make_room(node, tier, wanted)
        node.space.leased = lambda row: node.left(row.grant) > 0
        pins.on_free = lambda content: retire.reap_soon(node, content)
        self.findings = await recover.at_start(node)
        node.space.load()
        node.introduced = True
        PeerApi(node).bind()
        announce.publish(node)
        return node

    async def gossip(self) -> None:
        """Everybody hears every record of everybody else."""
        for name, node in self.nodes.items():
            announce.publish(node)
            for other in self.nodes:
                if other != name and not {other, name} & self.down:
                    await self.books[other].take(
                        self.books[name].give(list(self.books[name].known())), node.id
                    )

    async def crash(self, name: str) -> None:
        """End a node without any order: what was not durable is lost, and its locks are free."""
        node = self.nodes.pop(name)
        await _end_flights(node)
        _close(node)

    async def close(self) -> None:
        for node in self.nodes.values():
            node.draining = True
        for node in self.nodes.values():
            await _end_flights(node)
            _close(node)


async def _end_flights(node: Node) -> None:
    tasks = list(node.flights.values())
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _close(node: Node) -> None:
    node.roots.close()
    node.copiers.shutdown()
    node.pins.close()
    node.catalog.close()
    for txid in list(node.space._ballast):  # a process that ends closes its descriptors
        os.close(node.space._ballast.pop(txid)._fd)
    for store in node.stores.values():
        store.close()


@contextlib.asynccontextmanager
async def world(root: Path) -> AsyncIterator[World]:
    """A cluster without nodes; all are ended afterwards."""
    made = World(root)
    try:
        yield made
    finally:
        await made.close()


def configured(
    home: Path,
    *,
    memory: bool = False,
    capacity: int = 1 << 30,
    memory_capacity: int = 64 << 20,
    max_lease: int = 30 * DAY,
    default_lease: int = DAY,
    quota: int | None = None,
    replicas: int = -1,
    methods: tuple[Any, ...] = ("bittorrent", "direct"),
    encryption: Any = "tls",
) -> Config:
    return Config(
        node=NodeConfig(
            name=home.name,
            state_dir=home / "state",
            runtime_dir=home / "run",
            listen="127.0.0.1:0",
            bittorrent="127.0.0.1:0",
            advertise="",
        ),
        store=StoreConfig(
            disk=home / "disk",
            capacity=capacity,
            memory=home / "memory" if memory else None,
            memory_capacity=memory_capacity,
        ),
        cluster=ClusterConfig(key_file=None, peers=(), mdns=False, user_domain=""),
        replication=ReplicationConfig(
            replicas=replicas, methods=methods, encryption=encryption, upload_limit=None
        ),
        policy=PolicyConfig(
            requirements="",
            max_lease=max_lease,
            default_lease=default_lease,
            quota=quota,
            admins=("root",),
        ),
        attributes={},
        sources={},
        written={},
    )


def _facts(name: str) -> Callable[..., NodeFacts]:
    def facts(**changing: Any) -> NodeFacts:
        return NodeFacts(node_id=name, machine=name, user="root", **changing)

    return facts


# What users do.


async def hand_over(
    node: Node, who: Caller, name: str, files: Mapping[str, bytes], **options: Any
) -> create.Creation:
    """Begin a set and hand its files over; what is left is to seal or abort."""
    total = sum(map(len, files.values()))
    creation = await create.begin(node, who, name, wire.CreateOptions(**options), total, len(files))
    source = node.config.node.state_dir.parent / "source"
    source.mkdir(exist_ok=True)
    entries, fds = [], []
    for path, data in files.items():
        place = source / f"{next(_numbers)}"
        place.write_bytes(data)
        entries.append(wire.NewEntry(path=path, kind="file", size=len(data)))
        fds.append(os.open(place, os.O_RDONLY))
    await creation.add(entries, fds)
    return creation


async def create_set(
    node: Node, who: Caller, name: str, files: Mapping[str, bytes], **options: Any
) -> wire.SetView:
    return await (await hand_over(node, who, name, files, **options)).seal()


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for a condition, with a generous deadline."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.005)
    return found


def left_behind(node: Node) -> dict[str, Any]:
    """Everything that a failed or cancelled step must not leave."""
    return {
        "incoming": [name for store in node.stores.values() for name in store.list_incoming()],
        "contents": [name for store in node.stores.values() for name in store.list_contents()],
        "reservations": node.catalog.read_now(lambda tx: tx.reservations()),
        "transfers": node.catalog.read_now(lambda tx: tx.transfers()),
        "replicas": node.catalog.read_now(lambda tx: tx.replicas()),
        "rows": node.catalog.read_now(lambda tx: tx.contents()),
        "reserved": sum(node.space.reserved(tier) for tier in node.stores),
        "creations": len(node.creations),
    }


NOTHING: dict[str, Any] = {
    "incoming": [],
    "contents": [],
    "reservations": [],
    "transfers": [],
    "replicas": [],
    "rows": [],
    "reserved": 0,
    "creations": 0,
}


def known_set(number: int, *, owner="alice", name="nr", share="private", status="live", node="n1") -> Known:
    now = FakeClock().now()
    record = SetRecord(
        id=f"{number:032x}",
        name=name,
        owner=owner,
        content=f"{number:064x}",
        bytes=1,
        files=1,
        share=share,
        status=status,
        originator=node * 20,
        originator_name=node,
        originator_host=f"{node}.site",
        lease_seconds=60,
    )
    signed = SignedRecord(payload=b"", certificate=b"", signature=b"")
    lease = deadline.after(now, 60)
    return Known(signed=signed, record=record, base=now, lease=lease, local=False)


def signed_by(node: Node, signed: SignedRecord, **changes: Any) -> SignedRecord:
    """The record with changes, signed by that node as if it were its own work."""
    return node.identity.sign(msgspec.json.encode(msgspec.structs.replace(signed.record(), **changes)))

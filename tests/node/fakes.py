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
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cached import wire
from cached.api.peer import PeerApi
from cached.api.peer_objects import PeerObjects
from cached.catalog.sqlite import Catalog
from cached.config.values import (
    ClusterConfig,
    Config,
    NodeConfig,
    ObjectsConfig,
    OriginConfig,
    PolicyConfig,
    ReplicationConfig,
    StoreConfig,
)
from cached.daemon import objects
from cached.daemon.ground import Ground
from cached.leases import deadline
from cached.matching.ads import NodeFacts
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
from cached.replication.direct import Direct
from cached.replication.serving import DirectServer
from cached.sets.set import SetRecord, SignedRecord
from cached.storage.disk import Store
from cached.storage.pinlog import PinLog
from tests.node.doubles import FakeClock, FakeDirectory, FakeLink, FakeMatchmaker, FakeSwarm
from tests.origin.memory_origin import MemoryOrigin

DAY = 86_400
_numbers = itertools.count(1)


def caller(user: str, *groups: str, admin: bool = False, pid: int = 0) -> Caller:
    """A local user; each call is another process unless `pid` says which."""
    number = pid or next(_numbers) + 100_000
    return Caller(
        uid=1000, gid=1000, user=user, groups=frozenset(groups), admin=admin, pid=number, start_time=7
    )


@dataclass
class World:
    """Some nodes of one cluster, all in this process."""

    root: Path
    clock: FakeClock = field(default_factory=FakeClock)
    nodes: dict[str, Node] = field(default_factory=dict)
    books: dict[str, book.Book] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    alive: Callable[[Any], bool] = lambda _process: True
    #: Cloud Storage, as users' objects are read from it.
    origin: MemoryOrigin = field(default_factory=MemoryOrigin)
    undo: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

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
        counters = Counters()
        link, directory, consents = FakeLink(self, name), FakeDirectory(self, name), Consents()
        space = Space(
            catalog=catalog,
            shelf=shelf,
            stores=stores,
            limits={"disk": settings.store.capacity, "memory": settings.store.memory_capacity},
            quota=settings.policy.quota,
        )
        node = Node(
            config=settings,
            identity=identity,
            clock=self.clock,
            new_id=lambda: os.urandom(16).hex(),
            catalog=catalog,
            shelf=shelf,
            stores=stores,
            space=space,
            pins=pins,
            matchmaker=FakeMatchmaker(),  # type: ignore[arg-type]
            link=link,  # type: ignore[arg-type]
            directory=directory,  # type: ignore[arg-type]
            swarm=FakeSwarm(),  # type: ignore[arg-type]
            direct=Direct(fetch_stream=link.fetch, patience=1.0),
            direct_server=DirectServer(
                lookup=lambda content: served(node, content), allowed=consents.allowed
            ),
            counters=counters,
            facts=_facts(name),
            host=name,
            started=self.clock.now(),
            consents=consents,
            objects=objects.assemble(
                Ground(
                    config=settings,
                    clock=self.clock,  # type: ignore[arg-type]
                    identity=identity,
                    catalog=catalog,
                    stores=stores,
                    shelf=shelf,
                    pins=pins,
                ),
                link,  # type: ignore[arg-type]
                directory,  # type: ignore[arg-type]
                self.origin,
                space,
                counters,
                self.undo,
            ),
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
        PeerObjects(node).bind()
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
        await self.undo.aclose()


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
    buckets: dict[str, tuple[str, ...]] | None = None,
    object_disk: int | None = None,
    object_memory: int | None = None,
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
            replicas=replicas, methods=methods, encryption=encryption, upload_limit=None, download_limit=None
        ),
        policy=PolicyConfig(
            requirements="",
            max_lease=max_lease,
            default_lease=default_lease,
            quota=quota,
            admins=("root",),
        ),
        origin=OriginConfig(buckets=buckets or {}, readers=2, threads=4, endpoint="", credentials=None),
        objects=ObjectsConfig(
            memory=object_memory,
            disk=object_disk,
            block=8 << 20,
            redis="",
            freshness=0,
            sharing="permission",
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


async def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
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

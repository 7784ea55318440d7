"""Nodes of one process that find each other through the real directory, link and authority."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
from cached.peers.authority import init_cluster
from cached.peers.directory import Directory, Pace
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.peers.records import digest
from cached.sets.set import SetRecord, SignedRecord, newer, set_id

FAST = Pace(round=0.1, alone=0.05, dead=3.0, rumour=0.01, heal=3, same_start=0.3)


class Book:
    """A record book in memory."""

    def __init__(self) -> None:
        self.records: dict[str, SignedRecord] = {}
        self.offered = 0

    def known(self):
        return {one: (signed.record().revision, digest(signed)) for one, signed in self.records.items()}

    def give(self, set_ids):
        return [self.records[one] for one in set_ids if one in self.records]

    async def take(self, records, from_node):
        self.offered += len(records)
        for signed in records:
            self.put(signed)

    def put(self, signed):
        set_id = signed.record().id
        self.records[set_id] = newer(signed, self.records.get(set_id, signed))


class Node:
    def __init__(self, identity, name, *, seeds=(), advertise="", listen="127.0.0.1:0", pace=FAST) -> None:
        self.identity = identity
        self.id = identity.node_id
        self.link = Link(identity)
        self.book = Book()
        self.listen = listen
        self.directory = Directory(
            identity,
            self.link,
            self.book,
            name=name,
            seeds=seeds,
            advertise=advertise,
            listen=listen,
            pace=pace,
        )
        self.link.handle("echo", self._echo)

    async def _echo(self, peer, body):
        return body

    async def start(self):
        await self.link.start(self.listen)
        await self.directory.start()
        return self

    async def stop(self, *, orderly=True):
        if orderly:
            await self.directory.close()
        for task in self.directory._tasks:
            task.cancel()
        await self.link.close()

    @property
    def address(self):
        return f"127.0.0.1:{self.link.port}"

    def alive(self):
        return {entry.record.id for entry in self.directory.nodes() if entry.alive}

    def sign(self, nonce="ab" * 16, revision=1, status="live", owner="ada"):
        known_as = set_id(owner, "cd" * 32, nonce)
        record = SetRecord(
            id=known_as, nonce=nonce, name="nr", owner=owner, content="cd" * 32, bytes=1, files=1, originator=self.id,
            lease_seconds=60, revision=revision, status=status,
        )  # fmt: skip
        signed = self.identity.sign(msgspec.json.encode(record))
        self.book.put(signed)
        self.directory.announce([known_as])
        return signed


async def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_file = folder / "cluster.key"
        init_cluster(self.key_file)
        self.nodes: list[Node] = []

    async def add(self, name, *, state=None, key_file=None, **settings):
        identity = Identity.open(
            self.folder / (state or f"{name}{len(self.nodes)}"), key_file=key_file or self.key_file
        )
        settings.setdefault("seeds", [self.nodes[0].address] if self.nodes else [])
        node = await Node(identity, name, **settings).start()
        self.nodes.append(node)
        return node

    async def remove(self, node, *, orderly=True):
        self.nodes.remove(node)
        await node.stop(orderly=orderly)

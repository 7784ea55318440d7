"""A member of the cluster that lies: its certificate is good, what it says and asks is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cached.errors import CachedError, NotFound
from cached.peers.authority import admit
from cached.peers.directory import Directory, Pace
from cached.peers.identity import Identity
from cached.peers.keyfile import write_private
from cached.peers.link import Link
from cached.peers.records import Holding, NodeContents, digest
from cached.sets.set import SetRecord, SignedRecord, newer, set_id
from tests.cluster.kit import noise
from tests.daemons.cluster import Cluster
from tests.daemons.node import Node

pytestmark = pytest.mark.daemon

SECRET = noise(3 << 20, seed=9)


class Book:
    """Keeps every record that it hears."""

    def __init__(self) -> None:
        self.records: dict[str, SignedRecord] = {}

    def known(self) -> dict[str, tuple[int, str]]:
        return {one: (signed.record().revision, digest(signed)) for one, signed in self.records.items()}

    def give(self, set_ids: list[str]) -> list[SignedRecord]:
        return [self.records[one] for one in set_ids if one in self.records]

    async def take(self, records: list[SignedRecord], from_node: str) -> None:
        for signed in records:
            set_id = signed.record().id
            self.records[set_id] = newer(signed, self.records.get(set_id, signed))


class Liar:
    """A node with a certificate for the domain `elsewhere`, driven by the test."""

    def __init__(self, identity: Identity, victim: Node) -> None:
        self.identity = identity
        self.victim = victim
        self.link = Link(identity)
        self.book = Book()
        self.directory = Directory(
            identity,
            self.link,
            self.book,
            name="liar",
            seeds=[victim.address],
            listen="127.0.0.1:0",
            pace=Pace(round=0.2, alone=0.05, rumour=0.01),
        )
        self.asked: list[str] = []

    def sign(self, **values: Any) -> SignedRecord:
        record: dict[str, Any] = {
            "nonce": "ab" * 16, "name": "mine", "owner": "me@elsewhere", "bytes": len(SECRET), "files": 1,
            "originator": self.identity.node_id, "lease_seconds": 3600,
        }  # fmt: skip
        record |= values
        record.setdefault("id", set_id(record["owner"], record["content"], record["nonce"]))
        return self.identity.sign(msgspec.json.encode(SetRecord(**record)))

    async def ask(self, method: str, body: dict[str, Any]) -> Any:
        return await self.link.call(self.victim.id, method, msgspec.to_builtins(body), 10.0)

    async def stream(self, name: str, query: dict[str, Any]) -> bytes:
        got = b""
        async with contextlib.aclosing(self.link.fetch(self.victim.id, name, query, 10.0)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                got += chunk
        return got

    async def offer(self, signed: SignedRecord) -> dict[str, Any]:
        record = signed.record()
        held = Holding(set_id=record.id, revision=1, content=record.content, state="COMMITTED")
        self.directory.publish(NodeContents(host="liar", ad=self.ad(), replicas=(held,)))
        await self.directory._gossip.swap(self.victim.id)
        body = {"record": signed, "lease_seconds": 3600.0, "requested": True, "methods": ("direct",)}
        return dict(await self.ask("offer.consider", body))

    def ad(self) -> dict[str, Any]:
        """An ad that agrees to everything."""
        generous = {
            "Name": "liar",
            "TotalDisk": 1 << 40,
            "Disk": 1 << 40,
            "Memory": 1 << 20,
            "Isolation": "uid",
        }
        return {**generous, "Requirements": {"expr": "true"}, "ReplicationMethods": "bittorrent,direct"}


def lying(cluster: Cluster, victim: Node, scene: Callable[[Liar], Awaitable[None]]) -> None:
    """Run a scene with a liar that the victim takes for a member."""
    key = cluster.root / "liar.key"
    write_private(key, admit(victim.directory / "key", domains=("elsewhere",)).text)
    identity = Identity.open(cluster.root / "liar", key_file=key)

    @contextlib.asynccontextmanager
    async def member() -> AsyncIterator[Liar]:
        liar = Liar(identity, victim)
        await liar.link.start("127.0.0.1:0")
        await liar.directory.start()
        try:
            yield liar
        finally:
            await liar.directory.close()
            await liar.link.close()

    async def whole() -> None:
        async with member() as liar:
            async with asyncio.timeout(120):
                while not liar.directory._members.living(asyncio.get_running_loop().time()):
                    await asyncio.sleep(0.05)
            await scene(liar)

    asyncio.run(whole())


def test_knowing_a_content_id_is_no_right_to_its_bytes(cluster):
    node = cluster.start("a", replication_replicas="0")
    made = node.cli("create", "secret", cluster.tree("s", {"f": SECRET})).json()

    async def scene(liar: Liar) -> None:
        await liar.offer(signed := liar.sign(content=made["content"]))
        wish = {"set": signed.record().id, "ad": liar.ad()}
        query = {"content": made["content"], "set": signed.record().id}
        until = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < until:
            for method in ("source.join", "offer.request"):
                with contextlib.suppress(CachedError):
                    await liar.ask(method, wish)
            for name, asked in (("metadata", query), ("content", query | {"ranges": [[0, 10]]})):
                with pytest.raises(CachedError):
                    await liar.stream(name, asked)
            await asyncio.sleep(0.2)

    lying(cluster, node, scene)
    assert node.show("secret")["state"] == "COMMITTED"
    assert node.cli(
        "show", "id:" + set_id("me@elsewhere", made["content"], "ab" * 16), check=False
    ).returncode in (0, 3)


@pytest.mark.parametrize(
    "values",
    [
        {"id": "../../../../../../../tmp/cached-liar"},
        {"bytes": -(10**15)},
        {"revision": 2**63},
        {"owner": "root"},
    ],
    ids="-".join,
)
def test_an_impossible_record_is_refused_and_gossip_goes_on(cluster, values):
    node = cluster.start("a", replication_replicas="0")
    node.cli("create", "fine", cluster.tree("s", {"f": b"fine"}))
    before = node.status()["tiers"]["disk"]["free_bytes"]

    async def scene(liar: Liar) -> None:
        signed = liar.sign(content="cd" * 32, **values)
        assert (await liar.offer(signed))["answer"] == "REJECTED"
        with pytest.raises(CachedError):
            await liar.ask("set.learn", {"record": signed})
        liar.book.records[signed.record().id] = signed
        await liar.directory._gossip.swap(node.id)
        liar.book.records.clear()
        with pytest.raises(NotFound):
            await liar.ask("no.such.call", {})

    lying(cluster, node, scene)
    assert node.status()["tiers"]["disk"]["free_bytes"] == before
    assert {item["name"] for item in node.cli("list").items()} == {"fine"}

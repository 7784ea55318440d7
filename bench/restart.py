"""A node with many sets comes back: `python -m bench.restart [--sets 1000] [--size 100MB] [--runs 3] [--json]`.

The sets are laid out on the disk as a node leaves them at a clean stop (sparse files of zeros, each of a size of its
own, so that no two are alike). The clock runs from exec to READY=1, and until another member of the cluster, which
this process plays, has been told by the node that it gives each of the sets, and has the node in the swarm of each.
Hashing again would mean reading again: what the node reads is counted. Then its memory, at rest, in and out of swarms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from cached import administration
from cached.catalog.rows import ContentRow, ReplicaRow
from cached.daemon.daemon import Daemon
from cached.daemon.ground import Ground
from cached.leases import capacity
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.peers.directory import Directory, Pace
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.peers.records import NodeContents, digest
from cached.sets import manifest as manifests
from cached.sets.coarse import coarse
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF, hash_leaves, leaf_count, root_from_leaves
from cached.sets.set import SetRecord, SignedRecord, newer, set_id

from bench.arguments import size as size_of
from bench.report import Figure, Row, medians, show
from bench.start import Bench, processor_seconds

CONFIG: Final = """\
[node]
name = "bench"
state_dir = "{root}/state"
runtime_dir = "{root}/run"
listen = "127.0.0.1:0"
bittorrent = "127.0.0.1:0"
[store]
disk = "{root}/disk"
capacity = "10TB"
memory = ""
[cluster]
key_file = "{root}/cluster.key"
mdns = false
"""
OWNER: Final = "bench"
LEASE: Final = 7 * 86400
#: Questions to the node at the same time.
AT_ONCE: Final = 32
#: An ad that agrees to everything.
AD: Final[dict[str, Any]] = {
    "Name": "asker",
    "TotalDisk": 1 << 40,
    "Isolation": "uid",
    "Requirements": {"expr": "true"},
    "ReplicationMethods": "bittorrent,direct",
}


@dataclass
class Zeros:
    """A set of one file of zeros."""

    manifest: Manifest
    leaves: bytes
    known: Known

    @property
    def record(self) -> SetRecord:
        """The set's record."""
        return self.known.record


def made(ground: Ground | Node, number: int, size: int, replicas: int = 0) -> Zeros:
    """Return a set of about `size` bytes that the node has made; each number gives another."""
    length = size // LEAF * LEAF + number * LEAF
    leaves = hash_leaves(bytes(LEAF)) * leaf_count(length)
    manifest = Manifest.build([Entry(path="zeros", kind="file", size=length, root=root_from_leaves(leaves))])
    content, nonce = manifests.content_id(manifests.encode(manifest)), f"{number:032x}"
    record = SetRecord(
        id=set_id(OWNER, content, nonce),
        name=f"set{number}",
        owner=OWNER,
        content=content,
        nonce=nonce,
        bytes=length,
        files=1,
        share="public",
        replicas=replicas,
        originator=ground.identity.node_id,
        originator_name="bench",
        lease_seconds=LEASE,
    )
    signed = ground.identity.sign(msgspec.json.encode(record))
    return Zeros(manifest, leaves, Known.heard(signed, ground.clock.now(), local=True))


def committed(sets: list[Zeros], boot: str) -> Changes:
    """Return the rows of sets whose bytes are here."""
    return Changes(
        sets=tuple(one.known for one in sets),
        contents=tuple(
            ContentRow(
                content=one.record.content,
                tier="disk",
                bytes=one.record.bytes,
                physical=capacity.physical(one.manifest),
                state="STABLE",
            )
            for one in sets
        ),
        replicas=tuple(
            ReplicaRow(
                set_id=one.record.id,
                content=one.record.content,
                tier="disk",
                state="COMMITTED",
                grant=one.known.lease,
                granted_seconds=LEASE,
                bytes=one.record.bytes,
                owner=OWNER,
                created_wall=time.time(),
                verified_boot=boot,
            )
            for one in sets
        ),
    )


async def lay_out(path: Path, count: int, size: int) -> list[SetRecord]:
    """Fill the disk and the database of a node that does not run; return the records of its sets."""
    daemon = Daemon(administration.load(path, "", {}))
    ground = await daemon._ground()
    store, sets = ground.stores["disk"], [made(ground, number, size) for number in range(count)]
    try:
        for one in sets:
            txid = one.record.id[:32]
            with store.stage(txid) as staging:
                staging.prepare(one.manifest)
                descriptor = staging.open_writer(one.manifest.entries[0])
                os.truncate(descriptor, one.record.bytes)
                os.close(descriptor)
                staging.seal(manifests.encode(one.manifest), one.leaves)
                staging.put_record(one.known.signed)
            store.publish(txid, one.record.content, one.manifest)
            store.put_coarse(
                one.record.content, coarse(one.manifest, one.leaves)
            )  # it was in its swarm before
        await ground.shelf.keep(committed(sets, ground.clock.now().boot_id))
    finally:
        await daemon.stop()
    return [one.record for one in sets]


@dataclass
class Book:
    """Keeps every record that the asking member hears."""

    records: dict[str, SignedRecord] = field(default_factory=dict)

    def known(self) -> dict[str, tuple[int, str]]:
        """Say what is known."""
        return {one: (signed.record().revision, digest(signed)) for one, signed in self.records.items()}

    def give(self, set_ids: list[str]) -> list[SignedRecord]:
        """Pass records on."""
        return [self.records[one] for one in set_ids if one in self.records]

    async def take(self, records: list[SignedRecord], from_node: str) -> None:
        """Keep what is new."""
        for signed in records:
            name = signed.record().id
            self.records[name] = newer(signed, self.records.get(name, signed))


@contextlib.asynccontextmanager
async def asker(root: Path, address: str) -> AsyncIterator[Link]:
    """Be a member of the cluster that knows the node at `address`."""
    identity = Identity.open(root / "asker", key_file=root / "cluster.key")
    link = Link(identity)
    await link.start("127.0.0.1:0")
    directory = Directory(
        identity,
        link,
        Book(),
        name="asker",
        seeds=[address],
        listen=f"127.0.0.1:{link.port}",
        pace=Pace(round=0.1, alone=0.02, rumour=0.01),
    )
    directory.publish(NodeContents(host="asker", ad=AD))
    await directory.start()
    try:
        yield link
    finally:
        await directory.close()
        await link.close()


async def ask(root: Path, address: str, node_id: str, records: list[SetRecord], began: float) -> list[float]:
    """Have the node give each set; return the seconds from `began` to the first and to the last answer."""
    answered: list[float] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(link: Link, record: SetRecord) -> None:
        async with turns:
            while True:
                with contextlib.suppress(Exception):
                    await link.call(node_id, "source.join", {"set": record.id, "ad": AD}, 20.0)
                    await link.call(node_id, "swarm.join", {"content": record.content, "port": 1}, 20.0)
                    break
                await asyncio.sleep(0.02)
            answered.append(time.perf_counter() - began)

    async with asker(root, address) as link:
        while not link.can_call(node_id):
            await link.dial(address)
        await asyncio.gather(*(one(link, record) for record in records))
    return [min(answered), max(answered)]


def status(root: Path) -> dict[str, Any]:
    """Return the node's own account of itself."""
    from cached.client import Client

    return Client(root / "run").status()


def read_by(pid: int) -> int:
    """Return the bytes that a process has read, from wherever (proc(5), io)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def anonymous(pid: int) -> dict[str, int]:
    """Return the bytes of memory of a process and of its children that no file stands behind."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {"node": _anonymous(pid), "matchmaker": sum(_anonymous(int(child)) for child in children)}


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def once(bench: Bench, records: list[SetRecord]) -> dict[str, float]:
    """Start the node, have it give everything, look at it, and stop it."""
    node, ready = bench.start()
    worked = processor_seconds(node.pid)
    try:
        told = status(bench.root)
        time.sleep(3)
        idle, read, rested = anonymous(node.pid), read_by(node.pid), processor_seconds(node.pid)
        asked = time.perf_counter()
        first, last = asyncio.run(ask(bench.root, told["address"], told["id"], records, asked))
        found = {
            "ready": ready,
            "first": ready + first,
            "last": ready + last,
            "worked": worked,
            "given": processor_seconds(node.pid) - rested,
            "read_idle": read / sum(record.bytes for record in records),
            "read": read_by(node.pid) / sum(record.bytes for record in records),
            "idle": sum(idle.values()) / 1e6,
            "idle_node": idle["node"] / 1e6,
            "seeding": sum(anonymous(node.pid).values()) / 1e6,
        }
    finally:
        bench.stop(node)
    return found


def figures(found: dict[str, float]) -> list[Figure]:
    """Return what was found beside what is wanted."""
    return [
        Figure("exec to READY=1: all replicas are announced again", found["ready"], "s"),
        Figure("until the first set is given to another member", found["first"], "s", 5.0),
        Figure("until every set is in its swarm, asked for at once", found["last"], "s", 5.0),
        Figure("processor of the node until READY=1", found["worked"], "s"),
        Figure("processor of the node for giving all of them", found["given"], "s"),
        Figure("bytes read until ready, of the sets'", found["read_idle"], "", 0.01),
        Figure("bytes read until all are in swarms, of the sets'", found["read"], "", 0.01),
        Figure("RssAnon at rest, node and its child", found["idle"], "MB", 120.0),
        Figure("RssAnon at rest, node alone", found["idle_node"], "MB"),
        Figure("RssAnon with every set in its swarm, node and its child", found["seeding"], "MB"),
    ]


def main() -> None:
    """Measure, print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--size", type=size_of, default=100_000_000, help="of each set (default: 100MB)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    load = list(os.getloadavg())
    with tempfile.TemporaryDirectory(prefix="cached-bench-") as temporary:
        root = Path(temporary) / "node"
        bench = Bench(root, Path(__file__).parents[1], CONFIG)
        administration.cluster_init(root / "cluster.key")
        records = asyncio.run(lay_out(bench.config, asked.sets, asked.size))
        bench.measure()  # the modules' bytecode, and the first look at the files
        found = medians([once(bench, records) for _ in range(asked.runs)])
    rows: dict[str, Row] = {
        "restart": ({"sets": asked.sets, "size": asked.size, "runs": asked.runs}, figures(found))
    }
    show(rows, load, ("libtorrent",), as_json=asked.json)


if __name__ == "__main__":
    main()

"""Nodes without daemons: swarms on 127.0.0.x whose calls go straight to the other swarm's handlers."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached.errors import PeerUnreachable
from cached.replication.bittorrent import Swarm
from cached.replication.transfer import FetchJob, Holder, TlsMaterial
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import hash_leaves, root_from_leaves

#: Piece size of the swarms under test, in bytes.
PIECE = 64 * 1024


@dataclass
class Content:
    id: str
    manifest: Manifest
    leaves: bytes
    data: Path


def make_content(data: Path, files: dict[str, int | bytes], *, seed: int = 1) -> Content:
    """Write files of these sizes (or bytes) under `data`, and describe them."""
    chance, entries, leaves = random.Random(seed), {}, {}
    for path, what in files.items():
        content = chance.randbytes(what) if isinstance(what, int) else what
        target = data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        leaves[path] = hash_leaves(content)
        entries[path] = Entry(path=path, kind="file", size=len(content), root=root_from_leaves(leaves[path]))
        for parent in list(Path(path).parents)[:-1]:
            entries.setdefault(str(parent), Entry(path=str(parent), kind="dir"))
    ordered = sorted(entries, key=lambda path: path.encode())
    manifest = Manifest(entries=tuple(entries[path] for path in ordered))
    joined = b"".join(leaves.get(path, b"") for path in ordered)
    return Content(id=os.urandom(32).hex(), manifest=manifest, leaves=joined, data=data)


def staged(content: Content, data: Path) -> Path:
    """Make what storage makes before a fetch: directories and empty files."""
    data.mkdir(parents=True, exist_ok=True)
    for entry in content.manifest.entries:
        if entry.kind == "dir":
            (data / entry.path).mkdir(exist_ok=True)
        elif entry.kind == "file" and entry.size == 0:
            (data / entry.path).touch()
    return data


def same(content: Content, data: Path) -> bool:
    return all(
        (data / entry.path).read_bytes() == (content.data / entry.path).read_bytes()
        for entry in content.manifest.files()
    )


@dataclass
class Caller:
    node_id: str


@dataclass
class Net:
    """The control plane between the swarms of a test."""

    swarms: dict[str, Swarm] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    calls: list[tuple[str, str, str]] = field(default_factory=list)

    async def add(self, root: Path, node_id: str, *, tls: TlsMaterial | None = None, **more: Any) -> Swarm:
        host = f"127.0.0.{len(self.swarms) + 2}"

        async def call(target: str, method: str, body: dict[str, Any]) -> dict[str, Any]:
            self.calls.append((node_id, target, method))
            if target in self.gone or target not in self.swarms:
                raise PeerUnreachable(f"{target} does not answer")
            handler = self.swarms[target].rpc_handlers()[method]
            return await handler(Caller(node_id), body)

        swarm = Swarm(
            node_id=node_id,
            listen=f"{host}:0",
            scratch=root / node_id / "scratch",
            call=call,
            tls=tls,
            host_of=lambda peer: self.hosts.get(peer, ""),
            **more,
        )
        self.hosts[node_id] = host
        self.ports[node_id] = await swarm.start()
        self.swarms[node_id] = swarm
        return swarm

    def holders(self) -> list[Holder]:
        return [
            Holder(
                node_id=node_id,
                host=self.hosts[node_id],
                bittorrent_port=self.ports[node_id],
                complete=node_id in self.complete,
            )
            for node_id in self.swarms
            if node_id not in self.gone
        ]

    async def close(self) -> None:
        for node_id, swarm in self.swarms.items():
            if node_id not in self.gone:
                await swarm.close()


async def seeding(
    net: Net, root: Path, content: Content, name: str = "source", *, piece: int = PIECE, **more: Any
) -> Swarm:
    """Add a node that has the content, and gives it."""
    swarm = await net.add(root, name, **more)
    net.complete.add(name)
    await swarm.seed(content.id, content.manifest, content.leaves, content.data, piece)
    return swarm


def job_for(content: Content, data: Path, piece_size: int) -> FetchJob:
    return FetchJob(
        content=content.id,
        manifest=content.manifest,
        digests=content.leaves,
        data=staged(content, data),
        piece_size=piece_size,
    )

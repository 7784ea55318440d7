"""Links of one process between nodes of one cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cached.peers.identity import Identity
from cached.peers.link import Link


def identity(tmp_path: Path, name: str, key_file: Path | None) -> Identity:
    return Identity.open(tmp_path / name, key_file=key_file)


@contextlib.asynccontextmanager
async def linked(tmp_path, key_file, *names):
    links, owners = [], []
    for name in names:
        owners.append(identity(tmp_path, name, key_file))
        links.append(Link(owners[-1]))
        await links[-1].start("127.0.0.1:0")
    for link in links:
        for other, owner in zip(links, owners, strict=True):
            if other is not link:
                link.learned(owner.node_id, f"127.0.0.1:{other.port}", reachable=True)
    try:
        yield [(link, owner.node_id) for link, owner in zip(links, owners, strict=True)]
    finally:
        for link in links:
            await link.close()


async def echo(peer, body):
    return {"from": peer.node_id, "domains": sorted(peer.domains), "body": body}

"""Seeding: contents of this node join a swarm when somebody wants them, and what serves them otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from cached.errors import CachedError, NotFound
from cached.node import digests, metadata
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.identity import Identity
from cached.replication import layout, method
from cached.replication.membership import Seedable
from cached.replication.serving import Served
from cached.replication.transfer import TlsMaterial
from cached.sets.coarse import SPAN
from cached.sets.digests import Digests
from cached.sets.manifest import Manifest
from cached.storage.disk import Store

#: Receivers that a piece size is chosen for when nobody has said how many there are.
USUAL_RECEIVERS = 8
#: Seconds after which a content that nobody has asked for leaves its swarm.
IDLE = 900.0


async def lookup(node: Node, content: str, piece_size: int) -> Seedable | None:
    """Return a committed content as a swarm needs it, for that piece size, or with 0 for the usual one.

    None when it is not here, or not whole.
    """
    store = metadata.local(node, content)
    if store is None or (content, store.tier) in node.shelf.withheld:
        return None
    return await asyncio.to_thread(_seedable, node, store, content, piece_size)


def _seedable(node: Node, store: Store, content: str, piece_size: int) -> Seedable:
    manifest = node.manifests.read(store, content)
    piece_size = piece_size or layout.piece_size(manifest.total_bytes, USUAL_RECEIVERS)
    return Seedable(
        manifest=manifest,
        digests=_digests(store, content, manifest, piece_size),
        data=store.data(content),
        piece_size=piece_size,
    )


def _digests(store: Store, content: str, manifest: Manifest, piece_size: int) -> Digests:
    """Return what suffices for a piece size."""
    if piece_size < SPAN or manifest.total_bytes < digests.COARSE_FROM:
        return store.leaves(content)
    return digests.coarse_of(store, content, manifest)


async def served(node: Node, content: str) -> Served | None:
    """Return a committed content as the direct method serves it; None when it is not here."""
    store = metadata.local(node, content)
    if store is None:
        return _coming(node, content)
    withheld = node.shelf.withheld.get((content, store.tier), frozenset())
    if "" in withheld:
        return None
    manifest = node.manifests.kept(content)
    if manifest is None:
        manifest = await asyncio.to_thread(node.manifests.read, store, content)
    return Served(
        manifest=manifest, open_dir=lambda: os.dup(node.roots.of(store, content)), withheld=withheld
    )


def _coming(node: Node, content: str) -> Served | None:
    """Return a content on its way here: whoever knows which parts are there may ask for them."""
    coming = metadata.coming_here(node, content)
    if coming is None:
        return None
    manifest, folder = coming

    def open_dir() -> int:
        try:
            return os.open(folder / "data", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound("this node has just finished receiving that content") from None

    return Served(manifest=manifest, open_dir=open_dir, coming=True)


def takes_coarse(node: Node, known: Known, receivers: int) -> bool:
    """Tell whether so many nodes that are to get a set at once need no more than its coarse digests."""
    return known.record.bytes >= digests.COARSE_FROM and is_shared(node, known, receivers)


def is_shared(node: Node, known: Known, receivers: int) -> bool:
    """Tell whether so many nodes that are to get a set at once, as far as this node knows, get it from a swarm."""
    record, ours = known.record, node.config.replication.methods
    return method.choose(record.methods, ours, ours, record.bytes, receivers) == "bittorrent"


def pieces_for(total_bytes: int, receivers: int) -> int:
    """Return the piece size in bytes of a content for so many nodes that are about to get it.

    Who is alone may not stay so: pieces for one would be too large for those who come meanwhile.
    """
    return layout.piece_size(total_bytes, receivers if receivers > 1 else USUAL_RECEIVERS)


async def ready(node: Node, known: Known, receivers: int) -> None:
    """Put a set's content into its swarm for so many receivers that are about to ask for it; never raises."""
    content = known.record.content
    if node.swarm.parameters(content) is None:
        await _seed(node, content, pieces_for(known.record.bytes, receivers))


async def refresh(node: Node, content: str) -> None:
    """After a transfer: let the swarm that brought the content go on from where it lies now."""
    running = node.swarm.parameters(content)
    if running is not None:
        await _seed(node, content, int(running["piece_size"]))


async def _seed(node: Node, content: str, piece_size: int) -> None:
    try:
        if found := await lookup(node, content, piece_size):
            await node.swarm.seed(content, found.manifest, found.digests, found.data, found.piece_size)
    except CachedError as error:
        node.counters.note("seed.failed", error.message, content=content[:8])


async def rest(node: Node, now: float) -> None:
    """Let contents leave their swarm that nobody has asked for lately, packs and all; whoever asks brings them back."""
    given = node.swarm.given()
    for content in [content for content in node.seeds if content not in given]:
        del node.seeds[content]
    for content in given:
        try:
            sent = (await node.swarm.stats(content)).uploaded
            before, since = node.seeds.setdefault(content, (sent, now))
            if sent != before:
                node.seeds[content] = (sent, now)
            elif now - since > IDLE:
                await node.swarm.unseed(content)
        except CachedError as error:
            node.counters.note("seed.not_asked", error.message, content=content[:8])


def packs(folder: Path, fetching: Collection[str]) -> int:
    """Return the bytes of the packs that a swarm keeps besides contents; those being fetched are reserved already."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.partition(".")[0] not in fetching:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_blocks * 512
    return total


async def encrypt_with(node: Node) -> None:
    """Let the swarm be encrypted as soon as one live node insists: the stricter side wins."""
    if node.swarm.encrypted:
        return
    strict = [
        entry
        for entry in node.directory.nodes()
        if entry.alive and entry.record.ad.get("Encryption") != "off"
    ]
    if strict:
        await node.swarm.encrypt()


def material(identity: Identity) -> TlsMaterial:
    """Return what the swarm's TLS needs from this node's identity."""
    material = identity.torrent_material()
    return TlsMaterial(
        root=material.root_certificate.decode(),
        certificate=material.certificate.decode(),
        key=material.private_key.decode(),
        dh=material.dh_params.decode(),
    )

"""The metadata of a content: manifest, leaves and times, from this node's store or from a holder, always verified."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import msgspec

from cached.errors import CachedError, Forbidden, IntegrityFailed, NoSource, NotFound
from cached.node import sources
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.link import Writer
from cached.peers.records import Peer
from cached.replication.transfer import Progress
from cached.sets import manifest as manifests
from cached.sets.leaves import check_all_leaves, decode_mtimes
from cached.sets.manifest import Manifest
from cached.sets.set import Tier
from cached.storage.disk import Store

#: Name of the peers' stream.
STREAM = "metadata"
#: Most bytes of metadata that are taken from a peer: so many besides the share of each file and of the files' bytes.
LIMIT = 64 << 20
PER_FILE = 8192
PER_BYTE = 1 / 256
#: Rounds over all holders, and the pause between them, in seconds.
ROUNDS = 5
PAUSE = 1.0


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What describes a content without its bytes."""

    manifest: Manifest
    leaves: bytes
    mtimes: bytes | None


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Head of the stream: how many bytes of each part follow; -1 for times that are unknown."""

    manifest: int
    leaves: int
    mtimes: int


def local(node: Node, content: str) -> Store | None:
    """Return a store of this node that has the content, if any."""
    tiers: tuple[Tier, ...] = ("memory", "disk")
    for tier in tiers:
        row = node.shelf.contents.get((content, tier))
        if row is not None and row.state == "STABLE":
            return node.stores[tier]
    return None


async def of(node: Node, known: Known) -> Metadata:
    """Return a set's metadata: from here, else from a holder. Raises `NoSource` when nobody has it."""
    store = local(node, known.record.content)
    if store is not None:
        return await asyncio.to_thread(_read, store, known.record.content)
    return await obtain(node, known, Progress())


async def staged(store: Store, txid: str, content: str) -> Metadata | None:
    """Return the metadata that an earlier attempt left in its staging area, when it is whole."""
    return await asyncio.to_thread(_staged, store, txid, content)


def _staged(store: Store, txid: str, content: str) -> Metadata | None:
    with contextlib.suppress(CachedError, OSError), store.stage(txid) as staging:
        if staging.sealed():
            data, leaves, times = staging.manifest_bytes(), staging.leaves(), staging.path / "mtimes"
            return _checked(data, leaves, times.read_bytes() if times.exists() else None, content)
    return None


async def obtain(node: Node, known: Known, progress: Progress) -> Metadata:
    """Get a set's metadata from any live holder, and verify it. Raises `NoSource`."""
    failure: CachedError = NoSource("no live node holds the set", hint="cached show lists its replicas")
    meeting = sources.Introduced(node=node, set_id=known.record.id)
    for attempt in range(ROUNDS):
        if attempt and not (isinstance(failure, Forbidden) and meeting.agreed):
            await asyncio.sleep(PAUSE)
        for peer in _holders(node, known):
            try:
                return await _from(node, peer, known)
            except CachedError as error:
                failure = error
                progress.reason = f"node {peer[:8]}: {error.message}"
        if isinstance(failure, Forbidden):  # we have not met since one of us started
            await meeting.look()
            progress.reason = "; ".join(meeting.reasons.values()) or progress.reason
    raise failure


def _holders(node: Node, known: Known) -> list[str]:
    entries = [entry for entry in node.directory.holders(known.record.id) if entry.node.record.id != node.id]
    order = sorted(entries, key=lambda entry: (not entry.node.alive, entry.holding.state != "COMMITTED"))
    peers = [entry.node.record.id for entry in order if entry.holding.state in ("COMMITTED", "EXPIRED")]
    source = node.sources.get(known.record.id)
    return list(dict.fromkeys(([source] if source else []) + peers))


async def _from(node: Node, peer: str, known: Known) -> Metadata:
    received = bytearray()
    limit = LIMIT + known.record.files * PER_FILE + int(known.record.bytes * PER_BYTE)
    query = {"content": known.record.content, "set": known.record.id}
    async with contextlib.aclosing(node.link.fetch(peer, STREAM, query, 30.0)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            received += chunk
            if len(received) > limit:
                raise IntegrityFailed("a peer sent more metadata than any set has")
    return await asyncio.to_thread(_parse, bytes(received), known.record.content)


def _parse(data: bytes, content: str) -> Metadata:
    head, _, body = data.partition(b"\n")
    try:
        lengths = msgspec.json.decode(head, type=Lengths)
    except msgspec.DecodeError as error:
        raise IntegrityFailed("a peer sent metadata that is not well formed") from error
    first, second = lengths.manifest, lengths.manifest + lengths.leaves
    if min(lengths.manifest, lengths.leaves) < 0 or len(body) != second + max(0, lengths.mtimes):
        raise NoSource("a peer broke off while it sent metadata")
    return _checked(body[:first], body[first:second], body[second:] if lengths.mtimes >= 0 else None, content)


def _checked(data: bytes, leaves: bytes, mtimes: bytes | None, content: str) -> Metadata:
    if manifests.content_id(data) != content:
        raise IntegrityFailed("this is another manifest than the content id names")
    manifest = manifests.decode(data)
    check_all_leaves(manifest, leaves)
    if mtimes is not None:
        decode_mtimes(mtimes, manifest)
    return Metadata(manifest=manifest, leaves=leaves, mtimes=mtimes)


def _read(store: Store, content: str) -> Metadata:
    return Metadata(
        manifest=store.manifest(content), leaves=store.leaves(content), mtimes=store.mtimes(content)
    )


async def serve(node: Node, peer: Peer, query: dict[str, object], writer: Writer) -> None:
    """Send a content's metadata to a peer that may have the content."""
    content = str(query.get("content", ""))
    if not node.consents.allowed(peer.node_id, content):
        raise Forbidden("this node has not agreed to send you that content")
    store = local(node, content)
    if store is None:
        raise NotFound("this node does not hold that content")
    manifest, leaves, mtimes = await asyncio.to_thread(
        lambda: (store.manifest_bytes(content), store.leaves(content), store.mtimes(content))
    )
    lengths = Lengths(
        manifest=len(manifest), leaves=len(leaves), mtimes=-1 if mtimes is None else len(mtimes)
    )
    await writer.write(msgspec.json.encode(lengths) + b"\n")
    for part in (manifest, leaves, mtimes or b""):
        for start in range(0, len(part), 1 << 20):
            await writer.write(memoryview(part)[start : start + (1 << 20)])

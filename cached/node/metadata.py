"""The metadata of a content: manifest, leaves and times, from this node's store or from a holder, always verified."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cached.errors import Busy, CachedError, Forbidden, IntegrityFailed, NoSource, NoSpace, NotFound
from cached.node import digests, origins
from cached.node.meeting import Meeting
from cached.node.node import Node
from cached.node.shelf import Known
from cached.origin import places
from cached.peers.link import Writer
from cached.peers.records import Peer
from cached.replication.transfer import Progress
from cached.sets import coarse as coarsely
from cached.sets import manifest as manifests
from cached.sets.coarse import Coarse
from cached.sets.digests import Digests, check
from cached.sets.leaves import decode_mtimes
from cached.sets.manifest import Manifest
from cached.sets.merkle import DIGEST, LEAF
from cached.sets.set import SetRecord, Tier
from cached.storage.disk import Store
from cached.storage.files import read_if_there

#: Name of the peers' stream.
STREAM = "metadata"
#: Longest head, and longest line of a file in a manifest, in bytes; the shortest line of anything.
HEAD = 256
LINE = 4224
SHORTEST = 4
#: Bytes of a manifest for directories and links, which a record does not count.
EXTRAS = 64 << 20
#: Metadata on its way takes at most this part of the machine's memory, what is small not counted, in bytes.
MEMORY_SHARE = 8
SMALL = 1 << 20
#: A peer is left after so many seconds, unless it has sent so many bytes a second beyond them.
GRACE = 30.0
SLOWEST = 64 << 10
#: Rounds over all holders, and the pause between them, in seconds.
ROUNDS = 5
PAUSE = 1.0


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What describes a content without its bytes: from a holder or the origin, checked (`checked`)."""

    manifest: Manifest
    #: The leaves, or the coarse ones where these suffice.
    digests: Digests
    mtimes: bytes | None
    #: Where the files lie in the origin (`cached.origin.places`), as it is kept; None when it is unknown.
    places: bytes | None = None

    @property
    def leaves(self) -> bytes:
        """All leaves; to be asked for only where no coarse digests can have come."""
        assert not isinstance(self.digests, Coarse)
        return self.digests

    def times(self) -> dict[str, int]:
        """Return the modification times in nanoseconds, by path; none where they are unknown."""
        if self.mtimes is None:
            return {}
        paths = [entry.path for entry in self.manifest.entries]
        return dict(zip(paths, decode_mtimes(self.mtimes, self.manifest), strict=True))


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Head of the stream: how many bytes of each part follow, in this order; -1 for what is unknown or not wanted."""

    manifest: int
    leaves: int
    mtimes: int
    places: int = -1
    coarse: int = -1

    @property
    def parts(self) -> tuple[int, ...]:
        """Bytes of each part, 0 for what does not follow."""
        return tuple(max(0, part) for part in msgspec.structs.astuple(self))

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts)


def local(node: Node, content: str) -> Store | None:
    """Return a store of this node that has the content, if any; one that has it whole comes first."""
    tiers: tuple[Tier, ...] = ("memory", "disk")
    here = [
        tier for tier in tiers if (row := node.shelf.contents.get((content, tier))) and row.state == "STABLE"
    ]
    best = min(here, key=lambda tier: (content, tier) in node.shelf.withheld, default=None)
    return None if best is None else node.stores[best]


async def of(node: Node, known: Known) -> Metadata:
    """Return a set's metadata: from here, else from a holder. Raises `NoSource` when nobody has it."""
    store = local(node, known.record.content)
    if store is not None:
        return await asyncio.to_thread(_read, node, store, known.record.content)
    return await obtain(node, known, Progress())


async def staged(store: Store, txid: str, content: str) -> Metadata | None:
    """Return the metadata that an earlier attempt left in its staging area, when it is whole."""
    return await asyncio.to_thread(_staged, store, txid, content)


def _staged(store: Store, txid: str, content: str) -> Metadata | None:
    with contextlib.suppress(CachedError, OSError), store.stage(txid) as staging:
        if staging.sealed():
            data, digests = staging.manifest_bytes(), staging.digests()
            return checked(data, digests, staging.mtimes(), content, staging.places())
    return None


async def obtain(node: Node, known: Known, progress: Progress, *, coarse: bool = False) -> Metadata:
    """Get a set's metadata from any live holder, and verify it. Raises `NoSource`.

    `coarse`: its leaves are not needed.
    """
    failure: CachedError = NoSource("no live node holds the set", hint="cached show lists its replicas")
    holders = Meeting(node=node, set_id=known.record.id)
    for attempt in range(ROUNDS):
        if attempt and not (isinstance(failure, Forbidden) and holders.agreed):
            await asyncio.sleep(PAUSE)
        for peer in _holders(node, known):
            try:
                return await ask(node, peer, known, coarse=coarse)
            except CachedError as error:
                failure = error
                entry = node.directory.node(peer)
                progress.reason = f"{entry.record.name if entry else peer[:8]}: {error.message}"
        if isinstance(failure, Forbidden):  # we have not met since one of us started
            await holders.look()
            progress.reason = "; ".join(holders.reasons.values()) or progress.reason
    raise failure


def _holders(node: Node, known: Known) -> list[str]:
    entries = [entry for entry in node.holders(known.record.id) if entry.node.record.id != node.id]
    order = sorted(entries, key=lambda entry: (not entry.node.alive, entry.holding.state != "COMMITTED"))
    peers = [entry.node.record.id for entry in order if entry.holding.state in ("COMMITTED", "EXPIRED")]
    source = node.sources.get(known.record.id)
    return list(dict.fromkeys(([source] if source and source != node.id else []) + peers))


async def ask(node: Node, peer: str, known: Known, *, coarse: bool = False) -> Metadata:
    """Take what one peer sends, as long as it keeps coming, and no more than the record allows for.

    Raises what the peer says, `NoSource` when it breaks off, and `IntegrityFailed` for what is not right.
    """
    node.counters.add(f"metadata.asked_{'coarse' if coarse else 'leaves'}")
    query = {"content": known.record.content, "set": known.record.id, "places": True, "coarse": coarse}
    loop = asyncio.get_running_loop()
    received, claimed = bytearray(), 0
    lengths: Lengths | None = None
    try:
        async with asyncio.timeout_at(loop.time() + GRACE) as patience:
            async with contextlib.aclosing(node.link.fetch(peer, STREAM, query, GRACE)) as chunks:  # type: ignore[type-var]
                begun = loop.time()
                async for chunk in chunks:
                    received += chunk
                    if lengths is None and (lengths := head(received)) is not None:
                        check_lengths(lengths, known.record, coarse=coarse)
                        claimed = claim(node, lengths.total)
                    if lengths is not None and len(received) > lengths.total:
                        raise IntegrityFailed("a peer sent more metadata than it had said")
                    # What was waited for came in the moment of the time-out, and took the cancellation's place.
                    if patience.expired():
                        raise TimeoutError
                    patience.reschedule(begun + GRACE + len(received) / SLOWEST)
        if lengths is None or len(received) != lengths.total:
            raise NoSource("a peer broke off while it sent metadata")
        return await asyncio.to_thread(parse, received, lengths, known.record.content)
    except TimeoutError:
        raise NoSource("a peer sent its metadata too slowly") from None
    finally:
        node.metadata_coming -= claimed


def head(received: bytearray) -> Lengths | None:
    """Take the head off what has come so far; None while it is not whole."""
    end = received.find(b"\n")
    if end < 0 and len(received) <= HEAD:
        return None
    try:
        lengths = msgspec.json.decode(received[: max(end, 0)], type=Lengths)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityFailed("a peer sent metadata that is not well formed") from error
    del received[: end + 1]
    return lengths


def check_lengths(lengths: Lengths, record: SetRecord, *, coarse: bool) -> None:
    """Raise `IntegrityFailed` for more than a set of that size may have; `coarse`: coarse digests may come instead."""
    most = Lengths(
        manifest=min(manifests.MAX_MANIFEST, EXTRAS + record.files * LINE),
        leaves=record.bytes // (LEAF // DIGEST) + record.files * DIGEST,
        mtimes=8 * (lengths.manifest // SHORTEST),
        places=places.longest(record.files),
        coarse=coarsely.longest(record.bytes) if coarse else -1,
    )
    fits = (
        0 <= lengths.manifest <= most.manifest
        and (0 if lengths.coarse < 0 else -1) <= lengths.leaves <= most.leaves
        and -1 <= lengths.coarse <= most.coarse
        and -1 <= lengths.mtimes <= most.mtimes
        and -1 <= lengths.places <= most.places
    )
    if not fits:
        raise IntegrityFailed("a peer has more metadata than a set of that size may have")


def claim(node: Node, wanted: int) -> int:
    """Count what is coming, so that all sources together never fill the memory.

    Return what is to be taken off `node.metadata_coming` later. Raises `NoSpace`, or `Busy` while others come.
    """
    if wanted <= SMALL:
        return 0
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEMORY_SHARE
    if wanted > most:
        raise NoSpace(
            "the metadata of this set does not fit into the memory of this node",
            bytes_needed=wanted,
            bytes_free=most,
        )
    if node.metadata_coming + wanted > most:
        raise Busy("too much metadata is on its way to this node", hint="try again in a moment")
    node.metadata_coming += wanted
    return wanted


def parse(received: bytearray, lengths: Lengths, content: str) -> Metadata:
    """Return what came after a head, checked; raises `IntegrityFailed`."""
    parts, at = [], 0
    for length in lengths.parts:
        parts.append(bytes(memoryview(received)[at : at + length]))
        at += length
    data, leaves, mtimes, where, coarse = parts
    return checked(
        data,
        Coarse(coarse) if lengths.leaves < 0 else leaves,
        mtimes if lengths.mtimes >= 0 else None,
        content,
        where if lengths.places >= 0 else None,
    )


def checked(
    data: bytes,
    digests: Digests,
    mtimes: bytes | None,
    content: str,
    where: bytes | None = None,
) -> Metadata:
    """Return metadata that belongs together and to a content; raises `IntegrityFailed` for any other."""
    if manifests.content_id(data) != content:
        raise IntegrityFailed("this is another manifest than the content id names")
    manifest = manifests.decode(data)
    check(manifest, digests)
    if mtimes is not None:
        decode_mtimes(mtimes, manifest)
    if where is not None:
        places.decode(where, manifest)
    return Metadata(manifest=manifest, digests=digests, mtimes=mtimes, places=where)


def _read(node: Node, store: Store, content: str) -> Metadata:
    return Metadata(
        manifest=store.manifest(content),
        digests=store.leaves(content),
        mtimes=store.mtimes(content),
        places=origins.places_of(node, content),
    )


async def serve(node: Node, peer: Peer, query: dict[str, object], writer: Writer) -> None:
    """Send a content's metadata to a peer that may have the content."""
    content = str(query.get("content", ""))
    if not node.consents.allowed(peer.node_id, content):
        raise Forbidden("this node has not agreed to send you that content")
    parts = await asyncio.to_thread(encoded, node, content, coarse=bool(query.get("coarse")))
    if not suffice(parts):
        raise NotFound("this node has just finished receiving that content, or does not have its leaves yet")
    if not query.get("places"):
        parts[3] = None
    await writer.write(headed(parts))
    for part in parts:
        for start in range(0, len(part or b""), 1 << 20):
            await writer.write(memoryview(part or b"")[start : start + (1 << 20)])
    if (store := local(node, content)) is not None:  # the bytes are asked for in a moment
        node.fly(f"manifest {content}", lambda: asyncio.to_thread(node.manifests.read, store, content))


def suffice(parts: list[bytes | None]) -> bool:
    """Tell whether parts as `encoded` returns them describe a content: a manifest, and digests of one kind."""
    data, leaves, _, _, coarse = parts
    return data is not None and not (leaves is None and coarse is None)


def headed(parts: list[bytes | None]) -> bytes:
    """Return the head of a stream of parts as `encoded` returns them."""
    lengths = Lengths(
        **{
            name: -1 if part is None else len(part)
            for name, part in zip(Lengths.__struct_fields__, parts, strict=True)
        }
    )
    return msgspec.json.encode(lengths) + b"\n"


def encoded(node: Node, content: str, *, coarse: bool) -> list[bytes | None]:
    """Return manifest, leaves, times, places and coarse digests as they are kept, or as they wait for the bytes to
    come: `coarse` says which of the two kinds of digests; the other is None.
    """
    store = local(node, content)
    if store is not None:
        return [
            store.manifest_bytes(content),
            None if coarse else store.leaves(content),
            store.mtimes(content),
            origins.places_of(node, content),
            digests.coarse_of(store, content, node.manifests.read(store, content)).digests
            if coarse
            else None,
        ]
    coming = coming_here(node, content)
    if coming is None:
        raise NotFound("this node does not hold that content")
    coming_data, leaves, mtimes, where = (
        read_if_there(coming[1] / part) for part in ("manifest", "leaves", "mtimes", "origin")
    )
    found: Coarse | None = None
    if coarse:
        found = Coarse.kept(read_if_there(coming[1] / "coarse"))
        if found is None and leaves is not None:
            found = coarsely.coarse(coming[0], leaves)
    return [coming_data, None if found else leaves, mtimes, where, found.digests if found else None]


def coming_here(node: Node, content: str) -> tuple[Manifest, Path] | None:
    """Return the manifest of a content on its way to this node, and where it lies; None when there is none yet."""
    for flight in node.transfers.values():
        row = node.shelf.replicas.get(flight.set_id)
        if flight.content == content and row is not None and flight.manifest is not None:
            return flight.manifest, node.stores[row.tier].root / "incoming" / flight.txid
    return None

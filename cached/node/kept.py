"""Kept: what the origin says of a set that is kept there, verified before anybody believes it."""

from __future__ import annotations

import asyncio

from cached.addresses import Address, Prefix, parse_prefix
from cached.errors import CachedError, IntegrityFailed, NoSource, NotFound
from cached.node import metadata, origins
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.node.shelf import Known
from cached.origin import document, naming, places
from cached.origin.document import Document
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.replication.transfer import Progress
from cached.sets import manifest as manifests
from cached.sets.leaves import LeafIndex


async def document_at(node: Node, prefix: Prefix) -> Document:
    """Return the document of the set that is kept below a prefix. Raises `NotFound`, `IntegrityFailed`, ..."""
    address = Address(prefix.bucket, document.name(naming.directory(prefix.name)))
    try:
        pinned = await origins.port(node).stat(address, token=NODE_ACCOUNT)
    except NotFound as error:
        raise NotFound(
            f"no set is kept below {prefix}: {error.message}",
            hint="--from makes a set of plain objects; --origin keeps one with what --from-set needs",
        ) from None
    return document.decode(await origins.read(node, pinned, document.MOST), str(address))


async def described(node: Node, prefix: Prefix, found: Document) -> Metadata:
    """Return the metadata of the set that a document describes. Raises `IntegrityFailed` when it does not fit."""
    base = naming.directory(prefix.name)
    parts: dict[str, bytes] = {}
    most = {"manifest": manifests.MAX_MANIFEST}
    claimed = 0
    try:
        for part in document.PARTS:
            if part in found.parts:
                pinned = found.pinned(prefix.bucket, base, part)
                _check_size(pinned, most[part])
                claimed += metadata.claim(node, pinned.size)
                parts[part] = await origins.read(node, pinned, most[part])
                if part == "manifest":
                    most |= await asyncio.to_thread(_bounds, parts[part], found)
        made = await asyncio.to_thread(
            metadata.checked,
            parts["manifest"],
            parts["leaves"],
            parts.get("mtimes"),
            found.content,
            parts["places"],
        )
    finally:
        node.metadata_coming -= claimed
    where = await asyncio.to_thread(places.decode, parts["places"], made.manifest)
    if (where.bucket, where.base) != (prefix.bucket, base):
        raise IntegrityFailed(f"the set below {prefix} says that its files lie elsewhere")
    return made


def _check_size(pinned: Pinned, most: int) -> None:
    if not 0 <= pinned.size <= most:
        raise IntegrityFailed(f"{pinned.address} has {pinned.size} bytes, and should have {most} at most")


def _bounds(data: bytes, found: Document) -> dict[str, int]:
    """Return how long the other parts may be, from a manifest that is what the document says."""
    if manifests.content_id(data) != found.content:
        raise IntegrityFailed("the manifest is not that of the content id in the document")
    manifest = manifests.decode(data)
    if (manifest.total_bytes, manifest.file_count) != (found.bytes, found.files):
        raise IntegrityFailed("the set is not as large as its document says")
    return {
        "leaves": LeafIndex(manifest).total,
        "mtimes": 8 * len(manifest.entries),
        "places": places.longest(manifest.file_count),
    }


async def metadata_of(node: Node, known: Known) -> Metadata:
    """Return a set's metadata from where the origin keeps it. Raises `NoSource` when it is kept nowhere we may read."""
    if not known.record.origin:
        raise NoSource("the set is kept in no origin")
    prefix = parse_prefix(known.record.origin)
    if not origins.serves(node, known.record.owner, prefix.bucket):
        raise NoSource(f"this node does not read gs://{prefix.bucket} for {known.record.owner}")
    found = await document_at(node, prefix)
    if found.content != known.record.content:
        raise NoSource(f"another set is kept below {prefix} by now")
    return await described(node, prefix, found)


async def obtain(node: Node, known: Known, progress: Progress, *, coarse: bool = False) -> Metadata:
    """Return a set's metadata from a holder, else from the origin; `coarse`: its leaves are not needed.

    Raises what the holders said when neither has it.
    """
    if node.introduced and not held(node, known) and not node.sources.get(known.record.id):
        try:
            return await metadata_of(node, known)
        except CachedError as error:
            progress.reason = error.message
    try:
        return await metadata.obtain(node, known, progress, coarse=coarse)
    except CachedError as failure:
        try:
            return await metadata_of(node, known)
        except CachedError as error:
            if isinstance(failure, NoSource):
                raise NoSource(f"{failure.message}; {error.message}", hint=failure.hint) from None
            raise failure from None


def held(node: Node, known: Known) -> bool:
    """Tell whether another live node tells of a whole copy of a set."""
    return any(
        entry.node.alive
        and entry.node.record.id != node.id
        and entry.holding.state in ("COMMITTED", "EXPIRED")
        for entry in node.holders(known.record.id)
    )

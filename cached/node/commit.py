"""Commit: how what a user has handed over becomes a set of that user's: visible and durable at once, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import msgspec

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, UploadRow
from cached.catalog.tx import Tx
from cached.errors import Busy, CachedError, NameTaken
from cached.leases import capacity, policy
from cached.node import announce, book, persist, retire, sharing, verify
from cached.node.node import Node
from cached.node.options import Wanted
from cached.node.shelf import Changes, Edit, Known
from cached.sets.manifest import Manifest
from cached.sets.set import SetRecord, set_id
from cached.storage.links import NOTHING, Linked
from cached.storage.staging import Staging

CREATE_PUBLISHED = faults.declare("create.published")
CREATE_COMMITTED = faults.declare("create.committed")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a user asked for, and what was promised."""

    owner: str
    name: str
    terms: Wanted
    grant: policy.Grant
    #: Of the reservation and the staging area.
    txid: str


def check_early(node: Node, order: Order, total_bytes: int, total_files: int) -> int:
    """Refuse before a byte is copied what could only end as `NameTaken`.

    Return the bytes that the quota must have left.
    """
    existing = node.shelf.current(order.owner, order.name)
    if existing is None or order.terms.replace:
        return total_bytes
    if (existing.record.bytes, existing.record.files) != (total_bytes, total_files):
        raise _taken(node, existing)
    held = node.shelf.replicas.get(existing.record.id)
    return total_bytes if held is None or node.left(held.grant) <= 0 else 0


async def commit(
    node: Node,
    order: Order,
    staging: Staging,
    manifest: Manifest,
    content: str,
    linked: Linked = NOTHING,
    *,
    kept: bool = False,
) -> Known:
    """Publish a sealed staging area under the name ordered; `linked` is what of it other contents have, too;
    `kept`: the origin has all of it already.

    Raises `NameTaken`, `NoSpace`, `Busy`, `IntegrityFailed`.
    """
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(node.locks(f"name {order.owner} {order.name}"))
        present = node.shelf.current(order.owner, order.name)
        if present is not None:  # not to be revised by anybody else meanwhile
            await stack.enter_async_context(node.locks(f"record {present.record.id}"))
        existing = node.shelf.current(order.owner, order.name)
        known = chosen(node, order, existing, manifest, content)
        replaced = existing if existing is not None and existing.record.id != known.record.id else None
        await asyncio.to_thread(staging.put_record, known.aged(node.now()))
        upload = None if kept else _upload(order, known)
        await _publish(node, order, known, replaced, manifest, staging, upload, linked)
        if upload is not None:
            persist.start(node, upload)
    node.space.settle(order.txid)
    announce.publish(node, known.record.id, *([replaced.record.id] if replaced else []))
    return known


def chosen(node: Node, order: Order, existing: Known | None, manifest: Manifest, content: str) -> Known:
    """Return the set to commit: the one that is there when it is the same, else a new one. Raises `NameTaken`.

    A lease that is over, or shorter than the least that the creator accepts, becomes the one granted now.
    """
    if existing is None:
        return _new(node, order, manifest, content)
    if existing.record.content == content and order.terms.same(existing.record):
        held = node.shelf.replicas.get(existing.record.id)
        if held is not None and held.state == "GOING":
            raise Busy("your set of that name is just being deleted here", hint="try again")
        changes: dict[str, object] = {}
        if _too_short(node, order, node.left(existing.lease)):
            changes["lease_seconds"] = order.grant.seconds
        if order.terms.origin != existing.record.origin and order.terms.origin:
            changes["origin"] = order.terms.origin
        return book.revise(node, existing, **changes) if changes else existing
    if not order.terms.replace:
        raise _taken(node, existing)
    return _new(node, order, manifest, content)


def _too_short(node: Node, order: Order, left: float) -> bool:
    """Say whether a promise with so many seconds left is over, or less than the creator accepts."""
    return left <= 0 or left < order.terms.min_lease_seconds


def _new(node: Node, order: Order, manifest: Manifest, content: str) -> Known:
    terms = order.terms
    nonce = node.new_id()
    record = SetRecord(
        id=set_id(order.owner, content, nonce),
        name=order.name,
        owner=order.owner,
        content=content,
        nonce=nonce,
        bytes=manifest.total_bytes,
        files=manifest.file_count,
        requirements=terms.requirements,
        share=terms.share,
        replicas=terms.replicas,
        methods=terms.methods,
        tier=terms.tier,
        originator=node.id,
        originator_name=node.directory.name,
        originator_host=node.host,
        lease_seconds=order.grant.seconds,
        min_lease_seconds=terms.min_lease_seconds,
        scope=terms.scope,
        origin=terms.origin,
    )
    return Known.heard(node.identity.sign(msgspec.json.encode(record)), node.now(), local=True)


def _upload(order: Order, known: Known) -> UploadRow | None:
    if not order.terms.origin:
        return None
    record = known.record
    return UploadRow(set_id=record.id, content=record.content, target=order.terms.origin)


async def _publish(
    node: Node,
    order: Order,
    known: Known,
    replaced: Known | None,
    manifest: Manifest,
    staging: Staging,
    upload: UploadRow | None,
    linked: Linked,
) -> None:
    """Make the content visible and durable, then commit; what was published in vain is taken back."""
    store, content = node.stores["disk"], known.record.content
    if _is_going(node, content):
        await retire.reap(node, content)
    async with node.locks(f"content {content}"):
        if _is_going(node, content):
            raise Busy("the same files are just being deleted here", hint="try again")
        was_there = await asyncio.to_thread(store.has, content)
        try:
            await verify.heal_from_staged(node, store, content, order.txid)
            places = await asyncio.to_thread(staging.places)
            published = await asyncio.to_thread(
                store.publish, order.txid, content, manifest, linked.paths, staging.written, staging.made
            )
            if not published and places:
                await asyncio.to_thread(store.put_places, content, places)
            faults.point(CREATE_PUBLISHED)
            async with sharing.joining(node, "disk", linked):
                await node.shelf.keep(_changes(node, order, known, replaced, manifest, upload, linked))
        except Exception:
            if not was_there:
                await _take_back(node, content)
            raise
        faults.point(CREATE_COMMITTED)


async def _take_back(node: Node, content: str) -> None:
    """Remove what was published but never committed; what cannot be removed now is found at the next start."""
    store = node.stores["disk"]
    try:
        trashed = await asyncio.to_thread(store.retire, content)
        if trashed is not None:
            await asyncio.to_thread(store.empty, trashed)
    except (CachedError, OSError) as error:
        node.counters.note("create.left_behind", str(error), content=content[:12])


def _is_going(node: Node, content: str) -> bool:
    row = node.shelf.contents.get((content, "disk"))
    return row is not None and row.state == "GOING"


def _changes(
    node: Node,
    order: Order,
    known: Known,
    replaced: Known | None,
    manifest: Manifest,
    upload: UploadRow | None,
    linked: Linked,
) -> Changes:
    record, at_once = known.record, node.after(0.0)

    def kept(stored: ReplicaRow) -> ReplicaRow:  # a promise that lasts long enough stays as it was given
        if _too_short(node, order, node.left(stored.grant)):
            stored = node.longer(stored, order.grant.seconds)
        return msgspec.structs.replace(stored, state="COMMITTED", tier="disk")

    def over(stored: ReplicaRow) -> ReplicaRow:  # readable as long as nobody wants its space
        return msgspec.structs.replace(stored, grant=at_once)

    def landed(tx: Tx) -> None:
        tx.delete_reservation(order.txid)
        if upload is not None:
            tx.put_upload(upload)

    edits: list[tuple[str, Edit]] = []
    if replaced is not None and replaced.record.id in node.shelf.replicas:
        edits.append((replaced.record.id, over))
    if record.id in node.shelf.replicas:
        edits.append((record.id, kept))
    here = ContentRow(
        content=record.content,
        tier="disk",
        bytes=record.bytes,
        physical=capacity.physical(manifest),
        state="STABLE",
    )
    return Changes(
        sets=(known, *([book.revise(node, replaced, status="withdrawn")] if replaced else [])),
        content_edits=(sharing.landing(here, linked),),
        replicas=() if record.id in node.shelf.replicas else (_row(node, order, known),),
        edits=tuple(edits),
        also=landed,
    )


def _row(node: Node, order: Order, known: Known) -> ReplicaRow:
    record, now = known.record, node.now()
    return ReplicaRow(
        set_id=record.id,
        content=record.content,
        tier="disk",
        state="COMMITTED",
        grant=node.after(order.grant.seconds),
        granted_seconds=order.grant.seconds,
        bytes=record.bytes,
        owner=record.owner,
        created_wall=now.wall,
        last_read_wall=now.wall,
        verified_boot=now.boot_id,
    )


def _taken(node: Node, existing: Known) -> NameTaken:
    record = existing.record
    coming = f", which is still on its way to {record.origin}" if record.id in node.uploads else ""
    hint = "--replace moves the name to the new content; cached update changes options"
    if coming:
        hint = "the same command as before waits for it, cached show tells how far it is; " + hint
    return NameTaken(
        f"you already have a set {record.name} with other content or options{coming}",
        hint=hint,
        id=record.id,
        content=record.content,
    )

"""Recreate: a set that is kept in the origin becomes one of this cluster, from its document alone.

document -> lease and space -> manifest, leaves and times, verified -> one transaction -> answer. The bytes come
afterwards, as those of every replica that nobody holds: `cached.node.ways`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from msgspec.structs import replace

from cached import faults, wire
from cached.addresses import Prefix
from cached.catalog.rows import ContentRow, ReplicaRow, TransferRow
from cached.catalog.tx import Tx
from cached.critical import to_the_end
from cached.errors import Busy, UsageError
from cached.leases import capacity
from cached.node import announce, book, create, kept, origins, receive, views
from cached.node.caller import Caller
from cached.node.commit import Order, chosen
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.node.shelf import Changes, Edit, Known
from cached.origin.document import Document
from cached.sets import manifest as manifests
from cached.sets.manifest import Manifest

RECREATE_DESCRIBED = faults.declare("recreate.described")
RECREATE_COMMITTED = faults.declare("recreate.committed")


async def begin(node: Node, caller: Caller, name: str, options: wire.CreateOptions) -> Recreation:
    """Read the document below `options.source_set`, promise a lease and reserve the space.

    Raises what `create.begin` raises, `Forbidden` for a bucket that the caller may not name, `NotFound` where no set is
    kept, `IntegrityFailed` for a document that does not describe one.
    """
    prefix = origins.named(node, caller, options.source_set)
    found = await kept.document_at(node, prefix)
    creation = await create.begin_as(Recreation, node, caller, name, options, found.bytes, found.files)
    creation.prefix, creation.found = prefix, found
    return creation


class Recreation(create.Creation):
    """A set on its way in from its document."""

    prefix: Prefix
    found: Document
    _metadata: Metadata | None = None
    _handed_on = False

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        """Refuse: the files come from the origin."""
        for fd in fds:
            os.close(fd)
        raise UsageError("this set is made of one that is kept: nothing can be added to it")

    async def draw(self) -> None:
        """Read what describes the set, not the data. Raises `IntegrityFailed` when it does not fit together."""
        self.begin_work()
        try:
            self._metadata = await kept.described(self.node, self.prefix, self.found)
        finally:
            self.end_work()
        faults.point(RECREATE_DESCRIBED)

    async def ahead(self) -> None:
        """Nothing: it is kept where it comes from."""

    async def seal(self) -> wire.SetView:
        """Commit the record. Raises `NameTaken` or `Busy`; then nothing is left behind."""
        if self._metadata is None:
            raise UsageError("what describes the set has not been read", hint="send draw before seal")
        try:
            known = await to_the_end(self._commit(self._metadata))
        finally:
            await self.abort()
        return views.set_view(self.node, known)

    async def _commit(self, metadata: Metadata) -> Known:
        node, order = self.node, self.order
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(node.locks(f"name {order.owner} {order.name}"))
            existing = node.shelf.current(order.owner, order.name)
            known = chosen(node, order, existing, metadata.manifest, self.found.content)
            if existing is not None and existing.record.id == known.record.id:
                await node.shelf.keep(Changes(sets=(known,)))
                if known.record.id in node.shelf.replicas:
                    return known
            replaced = existing if existing is not None and existing.record.id != known.record.id else None
            await node.space.grow(self.txid, capacity.physical(metadata.manifest))
            await asyncio.to_thread(self._describe, metadata)
            async with node.locks(f"content {known.record.content}"):
                await node.shelf.keep(_changes(node, order, known, replaced, metadata.manifest))
            self._hand_on(known)
        faults.point(RECREATE_COMMITTED)
        announce.publish(node, known.record.id, *([replaced.record.id] if replaced else []))
        receive.start(node, known.record.id)
        return known

    def _describe(self, metadata: Metadata) -> None:
        with self.node.stores["disk"].stage(self.txid) as staging:
            staging.prepare(metadata.manifest)
            if metadata.places is not None:
                staging.put_places(metadata.places)
            staging.seal(manifests.encode(metadata.manifest), metadata.leaves, metadata.mtimes)

    def _hand_on(self, known: Known) -> None:
        """Leave reservation and staging area to the transfer."""
        node, set_id = self.node, known.record.id
        self._handed_on = True
        node.creations.discard(self)
        node.accepted[set_id] = self.txid
        node.owed.add(set_id)
        node.unproven.add(set_id)

    async def abort(self) -> None:
        """Leave nothing behind of a creation that was not committed."""
        if self._handed_on:
            self.close()
        else:
            await super().abort()


def _changes(node: Node, order: Order, known: Known, replaced: Known | None, manifest: Manifest) -> Changes:
    record = known.record
    here = node.shelf.contents.get((record.content, "disk"))
    if here is not None and here.state == "GOING":
        raise Busy("the same files are just being deleted here", hint="try again")
    physical = capacity.physical(manifest)
    coming = ContentRow(
        content=record.content, tier="disk", bytes=record.bytes, physical=physical, state="COMING"
    )
    row = ReplicaRow(
        set_id=record.id,
        content=record.content,
        tier="disk",
        state="TRANSFERRING",
        grant=node.after(order.grant.seconds),
        granted_seconds=order.grant.seconds,
        bytes=record.bytes,
        owner=record.owner,
        created_wall=node.now().wall,
    )
    transfer = TransferRow(
        txid=order.txid,
        set_id=record.id,
        content=record.content,
        tier="disk",
        source="",
        manifest_ready=True,
        offer=receive.UNPROVEN,
    )
    at_once = node.after(0.0)
    edits: list[tuple[str, Edit]] = []
    if replaced is not None and replaced.record.id in node.shelf.replicas:
        edits.append((replaced.record.id, lambda stored: replace(stored, grant=at_once)))

    def named(tx: Tx) -> None:
        tx.put_transfer(transfer)
        reserved = next(one for one in tx.reservations() if one.txid == order.txid)
        tx.put_reservation(replace(reserved, purpose="replica", set_id=record.id, content=record.content))

    return Changes(
        sets=(known, *([book.revise(node, replaced, status="withdrawn")] if replaced else [])),
        contents=() if here is not None else (coming,),
        replicas=(row,),
        edits=tuple(edits),
        also=named,
    )

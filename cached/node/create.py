"""Create: bytes come in through descriptors, and leave this file as a committed set under a lease, or not at all.

lease -> space -> copy and hash -> manifest -> publish -> one transaction -> answer -> replicate in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

import msgspec

from cached import faults, wire
from cached.catalog.rows import ContentRow, ReplicaRow, ReservationRow
from cached.errors import Busy, NameTaken, SourceChanged, UsageError
from cached.leases import capacity, policy
from cached.node import announce, book, memory, views
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.options import Wanted, wanted
from cached.node.shelf import Changes, Known
from cached.sets.manifest import Manifest
from cached.sets.names import check_set_name
from cached.sets.set import SetRecord
from cached.storage.ingest import Ingest

CREATE_RESERVED = faults.declare("create.reserved")
CREATE_COPIED = faults.declare("create.copied")
CREATE_SEALED = faults.declare("create.sealed")
CREATE_PUBLISHED = faults.declare("create.published")
CREATE_COMMITTED = faults.declare("create.committed")

#: Files of one packet are copied by at most so many threads.
COPIERS = 4


async def begin(
    node: Node, caller: Caller, name: str, options: wire.CreateOptions, total_bytes: int, total_files: int
) -> Creation:
    """Promise a lease and reserve the space; the bytes follow through `Creation.add`.

    Raises `BadName`, `BadExpression`, `UsageError`, `LeaseRefused`, `NoSpace`, `QuotaExceeded` or `NameTaken`; then
    nothing is left behind.
    """
    if node.draining:
        raise Busy("the node is stopping", hint="try again, or on another node")
    check_set_name(name)
    if total_bytes < 0 or total_files < 0:
        raise UsageError("sizes and counts are never negative")
    terms = await wanted(node, options)
    grant = policy.decide(
        asked=options.lease_seconds,
        min_lease=options.min_lease_seconds,
        max_lease=node.config.policy.max_lease,
        default=node.config.policy.default_lease,
        draining=False,
    )
    _check_name_early(node, caller, name, terms, total_bytes, total_files)
    txid = node.new_id()
    await node.space.reserve(
        ReservationRow(
            txid=txid,
            purpose="create",
            tier="disk",
            bytes=capacity.estimate(total_bytes, total_files),
            logical=total_bytes,
            owner=caller.user,
        )
    )
    creation = Creation(node, caller, name, terms, grant, txid, total_bytes, total_files)
    try:
        faults.point(CREATE_RESERVED)
        if terms.tier == "memory":
            await memory.reserve(node, txid, caller.user, total_bytes, total_files)
        await creation.open()
    except BaseException:
        await asyncio.shield(creation.abort())
        raise
    node.creations.add(creation)
    return creation


class Creation:
    """One set on its way in. Ends with `seal` or `abort`; both may be called once more without harm."""

    def __init__(
        self,
        node: Node,
        caller: Caller,
        name: str,
        terms: Wanted,
        grant: policy.Grant,
        txid: str,
        total_bytes: int,
        total_files: int,
    ) -> None:
        self.node = node
        self.caller = caller
        self.name = name
        self.terms = terms
        self.grant = grant
        self.txid = txid
        self._total_bytes = total_bytes
        self._total_files = total_files
        self._ingest: Ingest | None = None
        self._ended = False

    @property
    def files_done(self) -> int:
        """Files copied so far."""
        return self._ingest.files_done if self._ingest else 0

    @property
    def bytes_done(self) -> int:
        """Bytes copied so far."""
        return self._ingest.bytes_done if self._ingest else 0

    async def open(self) -> None:
        """Make the staging area."""
        store = self.node.stores["disk"]
        self._ingest = await asyncio.to_thread(Ingest, store, self.txid, max_bytes=self._total_bytes)
        self._ingest.staging.ballast = self.node.space.ballast(self.txid)

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        """Copy entries in; one descriptor per file, in order. Closes the descriptors, also when it fails."""
        try:
            files = [entry for entry in entries if entry.kind == "file"]
            if len(files) != len(fds):
                raise UsageError(f"{len(files)} files came with {len(fds)} descriptors")
            if self._ended or self._ingest is None:
                raise Busy("this creation has ended")
            if self.files_done + len(files) > self._total_files:
                raise SourceChanged(
                    f"more than the {self._total_files} files announced arrived",
                    hint="the directory grew while it was read",
                )
            ingest = self._ingest
            for entry in entries:
                if entry.kind == "dir":
                    ingest.add_dir(entry.path, entry.mtime_ns)
                elif entry.kind == "link":
                    ingest.add_link(entry.path, entry.target, entry.mtime_ns)
            await self._copy(ingest, list(zip(files, fds, strict=True)))
        finally:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)

    async def _copy(self, ingest: Ingest, files: list[tuple[wire.NewEntry, int]]) -> None:
        shares = [files[start::COPIERS] for start in range(COPIERS)] if len(files) > 1 else [files]
        if sum(entry.size for entry, _ in files) < 1 << 20:
            shares = [files]
        copies = [asyncio.to_thread(self._copy_share, ingest, share) for share in shares if share]
        results = await asyncio.gather(*copies, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _copy_share(self, ingest: Ingest, share: list[tuple[wire.NewEntry, int]]) -> None:
        for entry, fd in share:
            ingest.add_file(entry.path, fd, entry.size, entry.executable, entry.mtime_ns)

    async def seal(self) -> wire.SetView:
        """Commit what was added. Raises `NameTaken`, `NoSpace` or `IntegrityFailed`; then nothing is left behind."""
        if self._ended or self._ingest is None:
            raise Busy("this creation has ended")
        try:
            faults.point(CREATE_COPIED)
            manifest, content = await asyncio.to_thread(self._ingest.seal)
            await self.node.space.name(self.txid, content)
            faults.point(CREATE_SEALED)
            async with self.node.locks(f"name {self.caller.user} {self.name}"):
                known = await asyncio.shield(self._commit(manifest, content))
        finally:
            await asyncio.shield(self.abort())
        self.node.stirred.set()
        return views.set_view(self.node, known)

    async def _commit(self, manifest: Manifest, content: str) -> Known:
        node, store = self.node, self.node.stores["disk"]
        existing = node.shelf.current(self.caller.user, self.name)
        if existing is not None and existing.record.content == content and self.terms.same(existing.record):
            known = existing
        else:
            if existing is not None and not self.terms.replace:
                raise _taken(existing)
            known = self._new(manifest, content)
        assert self._ingest is not None
        staging, signed = self._ingest.staging, known.aged(node.now())
        await asyncio.to_thread(staging.put_record, signed)
        async with node.locks(f"content {content}"):
            await asyncio.to_thread(store.publish, self.txid, content)
            faults.point(CREATE_PUBLISHED)
            await node.shelf.keep(self._changes(known, existing, manifest))
            faults.point(CREATE_COMMITTED)
        node.space.settle(self.txid)
        if self.terms.tier == "memory":
            await memory.fill(node, self.txid, content)
        announce.publish(node, known.record.id, *([existing.record.id] if existing else []))
        return known

    def _new(self, manifest: Manifest, content: str) -> Known:
        node, terms = self.node, self.terms
        record = SetRecord(
            id=node.new_id(),
            name=self.name,
            owner=self.caller.user,
            content=content,
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
            lease_seconds=self.grant.seconds,
            min_lease_seconds=terms.min_lease_seconds,
            scope=terms.scope,
        )
        return Known.heard(node.identity.sign(msgspec.json.encode(record)), node.now(), local=True)

    def _changes(self, known: Known, existing: Known | None, manifest: Manifest) -> Changes:
        node, record, now = self.node, known.record, self.node.now()
        held = node.shelf.replicas.get(record.id)
        grant = node.after(self.grant.seconds)
        if held is not None and held.state == "COMMITTED":
            grant = node.later(held.grant, grant)
        withdrawn: tuple[Known, ...] = ()
        if existing is not None and existing is not known:
            withdrawn = (book.revise(node, existing, status="withdrawn"),)
        return Changes(
            sets=(known, *withdrawn),
            contents=(
                ContentRow(
                    content=record.content,
                    tier="disk",
                    bytes=record.bytes,
                    physical=capacity.physical(manifest),
                    state="STABLE",
                ),
            ),
            replicas=(
                ReplicaRow(
                    set_id=record.id,
                    content=record.content,
                    tier="disk",
                    state="COMMITTED",
                    grant=grant,
                    granted_seconds=self.grant.seconds,
                    bytes=record.bytes,
                    owner=record.owner,
                    created_wall=now.wall,
                    last_read_wall=now.wall,
                    verified_boot=now.boot_id,
                ),
            ),
            also=lambda tx: tx.delete_reservation(self.txid),
        )

    async def abort(self) -> None:
        """Leave nothing behind of a creation that was not committed."""
        if self._ended:
            return
        self._ended = True
        self.node.creations.discard(self)
        store = self.node.stores["disk"]
        if self._ingest is not None:
            self._ingest.cancel()
            self._ingest.close()
        trashed = await asyncio.to_thread(store.discard, self.txid)
        await self.node.space.release(self.txid)
        await memory.release(self.node, self.txid)
        if trashed is not None:
            await asyncio.to_thread(store.empty, trashed)


def _check_name_early(
    node: Node, caller: Caller, name: str, terms: Wanted, total_bytes: int, total_files: int
) -> None:
    """Refuse before a byte is copied what could only end as `NameTaken`."""
    existing = node.shelf.current(caller.user, name)
    if existing is None or terms.replace:
        return
    if (existing.record.bytes, existing.record.files) != (total_bytes, total_files):
        raise _taken(existing)


def _taken(existing: Known) -> NameTaken:
    return NameTaken(
        f"you already have a set {existing.record.name} with other content or options",
        hint="--replace moves the name to the new content; cached update changes options",
        id=existing.record.id,
        content=existing.record.content,
    )

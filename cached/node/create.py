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
from cached.errors import Busy, CachedError, NameTaken, SourceChanged, UsageError
from cached.leases import capacity, policy
from cached.node import announce, book, consent, memory, retire, views
from cached.node.caller import Caller
from cached.node.critical import to_the_end
from cached.node.node import Node
from cached.node.options import Wanted, wanted
from cached.node.shelf import Changes, Edit, Known
from cached.sets.manifest import Manifest
from cached.sets.names import check_set_name
from cached.sets.set import SetRecord
from cached.storage.ingest import Ingest

CREATE_RESERVED = faults.declare("create.reserved")
CREATE_COPIED = faults.declare("create.copied")
CREATE_SEALED = faults.declare("create.sealed")
CREATE_PUBLISHED = faults.declare("create.published")
CREATE_COMMITTED = faults.declare("create.committed")

#: Files of one packet are copied by at most so many threads, and by one when they are this small together, in bytes.
COPIERS = 4
ONE_THREAD = 1 << 20
#: Space for directories and links beyond the number of files is reserved for so many at a time.
EXTRAS = 1024


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
    consent.check_speaks(node.identity.domains, caller.user, "this node")
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
        await to_the_end(creation.open())
    except BaseException:
        await creation.abort()
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
        self._sealing = False
        self._ended = False
        self._extras = 0
        self._work: set[asyncio.Future[None]] = set()

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
            await self._make_room_for(len(entries) - len(files))
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

    async def _make_room_for(self, extras: int) -> None:
        """Reserve more when directories and links outnumber the files: each takes space as well."""
        before, self._extras = self._extras, self._extras + extras
        if self._extras > max(before, self._total_files):
            more = -(-(self._extras - self._total_files) // EXTRAS) * EXTRAS * capacity.ENTRY
            reserved = capacity.estimate(self._total_bytes, self._total_files)
            await self.node.space.grow(self.txid, reserved + more)

    async def _copy(self, ingest: Ingest, files: list[tuple[wire.NewEntry, int]]) -> None:
        """Copy in a few threads. However this ends, no thread uses a descriptor any more when it does."""
        small = sum(entry.size for entry, _ in files) < ONE_THREAD
        shares = [files] if small else [files[start::COPIERS] for start in range(COPIERS)]
        loop = asyncio.get_running_loop()
        work = [
            loop.run_in_executor(self.node.copiers, self._copy_share, ingest, share)
            for share in shares
            if share
        ]
        self._work.update(work)
        try:
            if work:
                await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if not all(one.done() for one in work):
                ingest.cancel()
            await self._settled()
        for error in sorted((one.exception() for one in work), key=lambda found: isinstance(found, Busy)):
            if error is not None:
                raise error

    def _copy_share(self, ingest: Ingest, share: list[tuple[wire.NewEntry, int]]) -> None:
        for entry, fd in share:
            ingest.add_file(entry.path, fd, entry.size, entry.executable, entry.mtime_ns)

    async def _settled(self) -> None:
        """Wait until no thread copies any more, also when cancelled meanwhile."""
        cancelled = False
        while self._work:
            try:
                self._work -= (await asyncio.wait(self._work))[0]
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def seal(self) -> wire.SetView:
        """Commit what was added. Raises `NameTaken`, `NoSpace` or `IntegrityFailed`; then nothing is left behind."""
        if self._ended or self._sealing or self._ingest is None:
            raise Busy("this creation has ended")
        self._sealing = True
        try:
            known = await to_the_end(self._seal(self._ingest))
        finally:
            self._sealing = False
            await self.abort()
        self.node.stirred.set()
        return views.set_view(self.node, known)

    async def _seal(self, ingest: Ingest) -> Known:
        faults.point(CREATE_COPIED)
        manifest, content = await asyncio.to_thread(ingest.seal)
        await self.node.space.grow(self.txid, capacity.physical(manifest))
        await self.node.space.name(self.txid, content)
        faults.point(CREATE_SEALED)
        async with self.node.locks(f"name {self.caller.user} {self.name}"):
            return await self._commit(ingest, manifest, content)

    async def _commit(self, ingest: Ingest, manifest: Manifest, content: str) -> Known:
        node = self.node
        present = node.shelf.current(self.caller.user, self.name)
        async with contextlib.AsyncExitStack() as stack:
            if present is not None:
                await stack.enter_async_context(node.locks(f"record {present.record.id}"))
            existing = node.shelf.current(self.caller.user, self.name)
            known = self._chosen(existing, manifest, content)
            await asyncio.to_thread(ingest.staging.put_record, known.aged(node.now()))
            await self._publish(known, existing, manifest)
        node.space.settle(self.txid)
        if self.terms.tier == "memory":
            await self._fill_memory(content)
        announce.publish(node, known.record.id, *([existing.record.id] if existing else []))
        return known

    def _chosen(self, existing: Known | None, manifest: Manifest, content: str) -> Known:
        """Return the set to commit: the one that is there when it is the same, else a new one. Raises `NameTaken`."""
        if existing is None:
            return self._new(manifest, content)
        if existing.record.content == content and self.terms.same(existing.record):
            held = self.node.shelf.replicas.get(existing.record.id)
            if held is not None and held.state == "GOING":
                raise Busy("your set of that name is just being deleted here", hint="try again")
            return existing
        if not self.terms.replace:
            raise _taken(existing)
        return self._new(manifest, content)

    async def _publish(self, known: Known, existing: Known | None, manifest: Manifest) -> None:
        """Make the content visible and durable, then commit; what was published in vain is taken back."""
        node, store, content = self.node, self.node.stores["disk"], known.record.content
        if _is_going(node, content):
            await retire.reap(node, content)
        async with node.locks(f"content {content}"):
            if _is_going(node, content):
                raise Busy("the same files are just being deleted here", hint="try again")
            was_there = (content, "disk") in node.shelf.contents
            await asyncio.to_thread(store.publish, self.txid, content)
            faults.point(CREATE_PUBLISHED)
            try:
                await node.shelf.keep(self._changes(known, existing, manifest))
            except CachedError:
                trashed = None if was_there else await asyncio.to_thread(store.retire, content)
                if trashed is not None:
                    await asyncio.to_thread(store.empty, trashed)
                raise
            faults.point(CREATE_COMMITTED)

    async def _fill_memory(self, content: str) -> None:
        """Make the memory copy. The set is committed by now: when that fails, readers use the durable copy."""
        try:
            await memory.fill(self.node, self.txid, content)
        except CachedError as error:
            self.node.counters.note("memory.not_filled", error.message, content=content[:8])

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
        grant = node.after(self.grant.seconds)
        held = node.shelf.replicas.get(record.id)

        def kept(stored: ReplicaRow) -> ReplicaRow:
            later = node.later(stored.grant, grant)
            return msgspec.structs.replace(stored, state="COMMITTED", tier="disk", grant=later)

        at_once = node.after(0.0)

        def over(stored: ReplicaRow) -> ReplicaRow:
            return msgspec.structs.replace(stored, grant=at_once)

        withdrawn: tuple[Known, ...] = ()
        edits: list[tuple[str, Edit]] = [(record.id, kept)] if held is not None else []
        if existing is not None and existing is not known:
            withdrawn = (book.revise(node, existing, status="withdrawn"),)
            if existing.record.id in node.shelf.replicas:  # readable as long as nobody wants its space
                edits.append((existing.record.id, over))
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
            edits=tuple(edits),
            replicas=()
            if held is not None
            else (
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
        """Leave nothing behind of a creation that was not committed. One that is being sealed comes to its own end."""
        if not (self._ended or self._sealing):
            self._ended = True
            await to_the_end(self._clean_up())

    async def _clean_up(self) -> None:
        self.node.creations.discard(self)
        store = self.node.stores["disk"]
        if self._ingest is not None:
            self._ingest.cancel()
            await self._settled()
            self._ingest.close()
        trashed = await asyncio.to_thread(store.discard, self.txid)
        await self.node.space.release(self.txid)
        await memory.release(self.node, self.txid)
        if trashed is not None:
            await asyncio.to_thread(store.empty, trashed)


def _is_going(node: Node, content: str) -> bool:
    row = node.shelf.contents.get((content, "disk"))
    return row is not None and row.state == "GOING"


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

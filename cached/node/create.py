"""Create: bytes come in through descriptors, and leave this file as a committed set under a lease, or not at all.

lease -> space -> copy and hash -> manifest -> publish -> one transaction -> answer -> replicate in the background.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cached import faults, wire
from cached.catalog.rows import ReservationRow
from cached.critical import to_the_end
from cached.errors import Busy, CachedError, SourceChanged, UsageError
from cached.hands import CLOSING
from cached.leases import capacity, policy
from cached.node import commit, consent, memory, origins, persist, sharing, views
from cached.node.ahead import Ahead
from cached.node.caller import Caller
from cached.node.commit import Order
from cached.node.node import Node
from cached.node.options import wanted
from cached.node.shelf import Known
from cached.sets.manifest import Manifest
from cached.sets.names import check_set_name
from cached.storage.ingest import Ingest

CREATE_RESERVED = faults.declare("create.reserved")
CREATE_COPIED = faults.declare("create.copied")
CREATE_SEALED = faults.declare("create.sealed")

#: Files of one packet are copied by at most so many threads, and by one when they are this small together, in bytes.
COPIERS = 4
ONE_THREAD = 1 << 20
#: Space for directories and links beyond the number of files is reserved for so many at a time.
EXTRAS = 1024
#: A creation is given up when nothing has come for so many seconds.
PATIENCE = 600.0

Kind = TypeVar("Kind", bound="Creation")


async def begin(
    node: Node, caller: Caller, name: str, options: wire.CreateOptions, total_bytes: int, total_files: int
) -> Creation:
    """Promise a lease and reserve the space; the bytes follow through `Creation.add`. Raises as `begin_as`."""
    return await begin_as(Creation, node, caller, name, options, total_bytes, total_files)


async def begin_as(
    kind: type[Kind],
    node: Node,
    caller: Caller,
    name: str,
    options: wire.CreateOptions,
    total_bytes: int,
    total_files: int,
) -> Kind:
    """Promise a lease and reserve the space; the bytes follow through a `Creation` of that kind.

    Raises `BadName`, `BadExpression`, `UsageError`, `LeaseRefused`, `NoSpace`, `QuotaExceeded`, `NameTaken` or `Busy`;
    then nothing is left behind.
    """
    if node.draining:
        raise Busy("the node is stopping", hint="try again, or on another node")
    check_set_name(name)
    consent.check_speaks(node.identity.domains, caller.user, "this node")
    if total_bytes < 0 or total_files < 0:
        raise UsageError("sizes and counts are never negative")
    terms = await wanted(node, options)
    if terms.origin:
        origins.named(node, caller, terms.origin)
    grant = policy.decide(
        asked=options.lease_seconds,
        min_lease=options.min_lease_seconds,
        max_lease=node.config.policy.max_lease,
        default=node.config.policy.default_lease,
        draining=False,
    )
    order = commit.Order(owner=caller.user, name=name, terms=terms, grant=grant, txid=node.new_id())
    logical = commit.check_early(node, order, total_bytes, total_files)
    txid = order.txid
    await node.space.reserve(
        ReservationRow(
            txid=txid,
            purpose="create",
            tier="disk",
            bytes=capacity.estimate(total_bytes, total_files),
            logical=logical,
            owner=caller.user,
        ),
        fairly=True,
    )
    creation = kind(node, order, total_bytes, total_files)
    try:
        faults.point(CREATE_RESERVED)
        if terms.tier == "memory":
            await memory.reserve(node, txid, caller.user, total_bytes, total_files, fairly=True)
        await to_the_end(creation.open())
    except BaseException:
        await creation.abort()
        raise
    node.creations.add(creation)
    return creation


async def give_up_idle(node: Node, now: float) -> None:
    """Abort the creations to which nothing was added for long, and give their space back; `now` is monotonic."""
    for creation in tuple(node.creations):
        if creation.idle(now) > PATIENCE:
            node.counters.note("create.given_up", f"nothing came for {PATIENCE:.0f} s")
            await creation.abort()


class Creation:
    """One set on its way in. Ends with `seal` or `abort`; both may be called once more without harm."""

    def __init__(self, node: Node, order: Order, total_bytes: int, total_files: int) -> None:
        self.node = node
        self.order = order
        self.grant = order.grant
        self.txid = order.txid
        self._total_bytes = total_bytes
        self._total_files = total_files
        self._ingest: Ingest | None = None
        self._sealing = False
        self._ended = False
        self._extras = 0
        #: Packets being taken in, and the monotonic time at which the last one was.
        self._adding = 0
        self._moved = time.monotonic()
        self._work: set[asyncio.Future[None]] = set()
        self._sealed_as: tuple[Manifest, str] | None = None
        self._ahead: Ahead | None = None

    @property
    def files_done(self) -> int:
        """Files copied so far."""
        return self._ingest.files_done if self._ingest else 0

    @property
    def bytes_wanted(self) -> int:
        """Bytes of all files."""
        return self._total_bytes

    @property
    def bytes_done(self) -> int:
        """Bytes copied so far."""
        return self._ingest.bytes_done if self._ingest else 0

    def idle(self, now: float) -> float:
        """Return for how many seconds nothing has been done for this creation; `now` is monotonic."""
        return 0.0 if self._adding or self._sealing else now - self._moved

    async def open(self) -> None:
        """Make the staging area."""
        store = self.node.stores["disk"]
        self._ingest = await asyncio.to_thread(Ingest, store, self.txid, max_bytes=self._total_bytes)
        self._ingest.staging.ballast = self.node.space.ballast(self.txid)

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        """Copy entries in; one descriptor for all bundled files, then one for each other file, in order.

        Closes the descriptors, also when it fails.
        """
        try:
            ingest = self.begin_work()
            files = [entry for entry in entries if entry.kind == "file"]
            bundled = [entry for entry in files if entry.bundled]
            own = [entry for entry in files if not entry.bundled]
            if len(own) + bool(bundled) != len(fds):
                raise UsageError(f"{len(own)} files came with {len(fds)} descriptors")
            if self.files_done + len(files) > self._total_files:
                surplus = files[max(0, self._total_files - self.files_done)].path
                raise SourceChanged(
                    f"{surplus!r} is one file more than the {self._total_files} announced",
                    hint="the directory grew while it was read",
                    path=surplus,
                )
            await self.make_room_for(len(entries) - len(files))
            for entry in entries:
                if entry.kind == "dir":
                    ingest.add_dir(entry.path, entry.mtime_ns)
                elif entry.kind == "link":
                    ingest.add_link(entry.path, entry.target, entry.mtime_ns)
            if bundled:
                await self._in_threads(ingest, [lambda: ingest.add_bundle(fds[0], bundled)])
            await self._copy(ingest, list(zip(own, fds[bool(bundled) :], strict=True)))
        finally:
            self.end_work()
            CLOSING.close(self.order.owner, fds)

    async def draw(self) -> None:
        """Bring the bytes from the origin. Raises `UsageError`: those of this set are handed over."""
        raise UsageError("this set is made of files that are handed over: there is nothing to draw")

    def begin_work(self) -> Ingest:
        """Note that entries are taken in, until `end_work`, and return what takes them. Raises `Busy` after the end."""
        self._adding += 1
        if self._ended or self._ingest is None:
            raise _over()
        return self._ingest

    def end_work(self) -> None:
        """Note that it is done, well or not."""
        self._adding -= 1
        self._moved = time.monotonic()

    async def make_room_for(self, extras: int) -> None:
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
        steps = [functools.partial(self._copy_share, ingest, share) for share in shares if share]
        await self._in_threads(ingest, steps)

    async def _in_threads(self, ingest: Ingest, steps: Sequence[Callable[[], None]]) -> None:
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(self.node.copiers, step) for step in steps]
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
                done, _ = await asyncio.wait(self._work)
            except asyncio.CancelledError:
                cancelled = True
                continue
            self._work.difference_update(done)
            for one in done:  # looked at, or asyncio logs the errors of a cancelled creation as overlooked
                if not one.cancelled():
                    one.exception()
        if cancelled:
            raise asyncio.CancelledError

    async def ahead(self) -> None:
        """Compare with the origin, where it is to keep the set, before anything is committed (`cached.node.ahead`).

        Raises what keeps it out of there. May be cancelled: `abort` follows, and nothing is left behind.
        """
        if not self.order.terms.origin:
            return
        ingest = self.begin_work()
        try:
            manifest, content = await self._sealed(ingest)
            self._ahead = Ahead(self.node, self.order, ingest.staging)
            await self._ahead.run(manifest, content)
        finally:
            self.end_work()

    async def _sealed(self, ingest: Ingest) -> tuple[Manifest, str]:
        """Return the manifest of all that was added, and its content id. Nothing can be added any more then."""
        if self._sealed_as is None:
            self._sealed_as = await to_the_end(asyncio.to_thread(ingest.seal))
            await self.complete(ingest, self._sealed_as[0])
        return self._sealed_as

    async def seal(self) -> wire.SetView:
        """Commit what was added. Raises `NameTaken`, `NoSpace` or `IntegrityFailed`; then nothing is left behind."""
        if self._ended or self._sealing or self._ingest is None:
            raise _over()
        self._sealing = True
        try:
            known = await to_the_end(self._seal(self._ingest))
        finally:
            self._sealing = False
            await self.abort()
        self.node.stirred.set(known.record.id)
        return views.set_view(self.node, known)

    async def _seal(self, ingest: Ingest) -> Known:
        faults.point(CREATE_COPIED)
        manifest, content = await self._sealed(ingest)
        node, order, staging = self.node, self.order, ingest.staging
        linked = await sharing.link(
            node, node.stores["disk"], order.owner, self.txid, content, staging, manifest
        )
        needed = await asyncio.to_thread(capacity.physical, manifest) - linked.bytes
        await node.space.grow(self.txid, needed)
        await node.space.name(self.txid, content)
        faults.point(CREATE_SEALED)
        kept = self._ahead is not None and self._ahead.sent
        known = await commit.commit(node, order, staging, manifest, content, linked, kept=kept)
        if self.order.terms.tier == "memory":
            await self._fill_memory(content)
        return known

    async def complete(self, ingest: Ingest, manifest: Manifest) -> None:
        """Put more beside a sealed tree, before it is published."""

    async def kept(self) -> wire.SetView:
        """Wait until the origin has it too, when that was asked for; cancelling stops only the wait.

        Raises what keeps the origin from having it: then the set is committed here, and what is missing is tried again.
        """
        known = self.node.shelf.current(self.order.owner, self.order.name)
        if known is None:
            raise Busy("your set of that name has just been deleted")
        await persist.kept(self.node, known.record.id)
        return views.set_view(self.node, known)

    @property
    def upload(self) -> wire.Progress | None:
        """How far the origin has it; None when nothing is on its way there."""
        if self._ahead is not None and self._ahead.upload is not None:
            return persist.progress(self._ahead.upload, "SENDING")
        known = self.node.shelf.current(self.order.owner, self.order.name)
        return None if known is None else persist.report(self.node, known.record.id)

    async def _fill_memory(self, content: str) -> None:
        """Make the memory copy. The set is committed by now: when that fails, readers use the durable copy."""
        try:
            await memory.fill(self.node, self.txid, content)
        except CachedError as error:
            self.node.counters.note("memory.not_filled", error.message, content=content[:8])

    async def abort(self) -> None:
        """Leave nothing behind of a creation that was not committed. One that is being sealed comes to its own end."""
        if not (self._ended or self._sealing):
            self._ended = True
            await to_the_end(self._clean_up())

    def close(self) -> None:
        """Give the descriptors back; reservation and staging area stay, for whoever goes on with them."""
        self._ended = True
        if self._ingest is not None:
            self._ingest.close()

    async def _clean_up(self) -> None:
        self.node.creations.discard(self)
        store = self.node.stores["disk"]
        if self._ingest is not None:
            self._ingest.cancel()
            await self._settled()
            self._ingest.close()
        trashed = await asyncio.to_thread(store.discard, self.txid)
        sharing.release(self.node, self.txid)
        await self.node.space.release(self.txid)
        await memory.release(self.node, self.txid)
        if trashed is not None:
            await asyncio.to_thread(store.empty, trashed)


def _over() -> Busy:
    return Busy(
        "this creation has ended",
        hint=f"one to which nothing is added for {PATIENCE / 60:.0f} minutes is given up; create the set again",
    )

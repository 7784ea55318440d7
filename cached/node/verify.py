"""Verify: read a replica against its manifest, name what is damaged, and repair it from another holder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from cached import wire
from cached.catalog.rows import ReservationRow
from cached.critical import to_the_end
from cached.errors import (
    Busy,
    CachedError,
    Forbidden,
    IntegrityFailed,
    NoSource,
    NoSpace,
    NotFound,
    PeerUnreachable,
)
from cached.leases import capacity
from cached.node import damage, meeting, origins, sharing
from cached.node.access import check_manage, may_read, resolve
from cached.node.caller import Caller
from cached.node.kept import obtain
from cached.node.metadata import Metadata
from cached.node.node import Node
from cached.node.parallel import each
from cached.node.shelf import Known
from cached.origin.values import NODE_ACCOUNT
from cached.replication.transfer import FetchJob, Progress
from cached.sets import manifest as manifests
from cached.sets.names import SetRef
from cached.storage.disk import Store
from cached.storage.files import translated
from cached.storage.repair import mend, mend_from, replace_file, restore_manifest
from cached.storage.scrub import Damage
from cached.storage.scrub import verify as scrub

Report = Callable[[wire.Progress], None]

#: Seconds between two reports: the loop is woken for each.
TELL = 0.05


async def verify(
    node: Node, caller: Caller, ref: SetRef, repair: bool, progress: Report | None
) -> wire.VerifyReply:
    """Check this node's replica byte by byte; with `repair`, replace what is damaged. Raises `NotFound` without a
    replica.
    """
    known = resolve(node.shelf, caller, ref)
    if not may_read(caller, known.record):
        check_manage(caller, known, "verify")
    row = node.shelf.replicas.get(known.record.id)
    if row is None or row.state != "COMMITTED":
        raise NotFound(
            f"this node has no replica of {known.record.name}", hint="verify runs on the node that holds it"
        )
    store, content = node.stores[row.tier], row.content
    damages = await _scrub(node, store, known, progress)
    await damage.settle(node, store, content, damages)
    left = await heal(node, store, content, damages, first=known) if damages and repair else damages
    remaining = {one.path for one in left}
    return wire.VerifyReply(
        ok=not left,
        damaged=[
            wire.Damage(path=one.path, reason=_words(one), repaired=one.path not in remaining)
            for one in damages
        ],
        bytes=known.record.bytes,
    )


async def _scrub(node: Node, store: Store, known: Known, progress: Report | None) -> list[Damage]:
    done, told = 0, 0.0
    loop = asyncio.get_running_loop()

    def count(size: int) -> None:
        nonlocal done, told
        done += size
        due = loop.time() - told >= TELL or done >= known.record.bytes
        if progress is not None and due:
            told = loop.time()
            now = wire.Progress(bytes_present=done, bytes_wanted=known.record.bytes, state="verifying")
            loop.call_soon_threadsafe(progress, now)

    return await scan(node, store, known.record.content, fresh=True, progress=count)


async def scan(
    node: Node,
    store: Store,
    content: str,
    *,
    rate: int | None = None,
    fresh: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Damage]:
    """Read a content against its manifest, at most `rate` bytes a second.

    Raises `Busy` when the node stops meanwhile.
    """

    def go_on(size: int) -> None:
        if node.draining:
            raise Busy("the node is stopping")
        progress(size)

    return await asyncio.to_thread(scrub, store, content, rate=rate, fresh=fresh, progress=go_on)


async def heal(
    node: Node, store: Store, content: str, damages: list[Damage], *, first: Known | None = None
) -> list[Damage]:
    """Mend what needs no bytes, fetch the rest from a holder of any set that shares the content, and return what is
    still damaged, which is remembered and withheld. `first` is the set whose holders are asked first. Raises `NoSpace`.
    """
    async with node.locks(f"heal {content}"):
        try:
            await _heal(node, store, content, damages, first)
        except (CachedError, OSError) as error:
            if isinstance(error, NoSpace) or node.draining:
                raise
            node.counters.note("verify.not_repaired", str(error), content=content[:12])
        left = await scan(node, store, content)
        await damage.settle(node, store, content, left)
        await sharing.recount_kin(node, store, content)
        return left


async def _heal(node: Node, store: Store, content: str, damages: list[Damage], first: Known | None) -> None:
    sets = [node.shelf.known[set_id] for set_id in sorted(node.shelf.sets_of_content(content))]
    sets.sort(key=lambda known: first is None or known.record.id != first.record.id)
    if not sets:
        return
    txid = node.new_id()
    await node.space.reserve(await asyncio.to_thread(_reservation, store, sets[0], damages, txid))
    try:
        async with node.locks(f"content {content}"):
            if any(one.kind == "manifest" for one in damages):
                metadata = await _metadata(node, sets)
                await asyncio.to_thread(_put_manifest, store, content, metadata)
                damages = await scan(node, store, content)
            left = await asyncio.to_thread(mend, store, content, damages)
            broken = {one.path for one in left if one.needs_bytes and one.path}
            kin = await sharing.same_files(node, store, content, broken)
            broken -= await sharing.mend(node, store, content, broken)
            if broken:
                await _refetch(node, store, sets, broken, txid)
            await sharing.pass_on(node, store, content, kin)
            if any(one.kind == "leaves" for one in left):
                await asyncio.to_thread(mend, store, content, [one for one in left if one.kind == "leaves"])
    finally:
        await to_the_end(_clean_up(node, store, txid))
    await node.swarm.unseed(content)


async def heal_from_staged(node: Node, store: Store, content: str, txid: str) -> None:
    """Before files that have just been handed over are dropped because their content is here already: compare what is
    here, and repair it with them. Under the content's lock.
    """
    try:
        await asyncio.to_thread(store.home, content)
    except NotFound:
        return
    damages = await scan(node, store, content)
    if damages:
        staged = store.root / "incoming" / txid
        node.counters.note("create.repaired", "what was here was damaged", content=content[:12])
        broken = {one.path for one in damages if one.needs_bytes}
        kin = await sharing.same_files(node, store, content, broken)
        await asyncio.to_thread(mend_from, store, content, damages, staged)
        await sharing.pass_on(node, store, content, kin)
        await node.swarm.unseed(content)
    await damage.settle(node, store, content, [])


def has_holder(node: Node, content: str) -> bool:
    """Tell whether a content can be repaired: another live node tells of a whole copy, the origin has the files,
    or contents here that it shares files with.
    """
    if any(row.family for row in node.shelf.contents.values() if row.content == content):
        return True
    if node.origin is not None and any(store.has_places(content) for store in node.stores.values()):
        return True
    return any(_is_held(node, node.shelf.known[one]) for one in node.shelf.sets_of_content(content))


def _is_held(node: Node, known: Known) -> bool:
    return any(
        entry.node.alive
        and entry.node.record.id != node.id
        and entry.holding.state in ("COMMITTED", "EXPIRED")
        for entry in node.holders(known.record.id)
    )


def _reservation(store: Store, known: Known, damages: list[Damage], txid: str) -> ReservationRow:
    record, size = known.record, capacity.estimate(known.record.bytes, known.record.files)
    paths = {one.path for one in damages if one.needs_bytes}
    if not any(one.kind == "manifest" for one in damages):
        manifest = store.manifest(record.content)
        files = [entry.size for entry in manifest.files() if entry.path in paths]
        size = capacity.estimate(sum(files), len(files)) + len(manifest.entries) * capacity.ENTRY
    return ReservationRow(
        txid=txid,
        purpose="replica",
        tier=store.tier,
        bytes=size,
        owner=record.owner,
        set_id=record.id,
        content=record.content,
    )


async def _metadata(node: Node, sets: list[Known]) -> Metadata:
    failure: CachedError = NoSource("no other live node holds the set")
    for known in sets:
        if _is_held(node, known) or known.record.origin:
            try:
                return await obtain(node, known, Progress())
            except CachedError as error:
                failure = error
    raise failure


def _put_manifest(store: Store, content: str, metadata: Metadata) -> None:
    restore_manifest(store, content, manifests.encode(metadata.manifest), metadata.leaves)


async def _refetch(node: Node, store: Store, sets: list[Known], paths: set[str], txid: str) -> None:
    failure: CachedError = NoSource("no other live node holds the set")
    for known in sets:
        if not _is_held(node, known):
            continue
        try:
            await _refetch_as(node, store, known, paths, txid)
        except (NoSource, IntegrityFailed, Forbidden, PeerUnreachable) as error:
            failure = error
        else:
            return
    for known in sets:
        if await _refetch_from_origin(node, store, known, paths, txid):
            return
    raise failure


async def _refetch_from_origin(node: Node, store: Store, known: Known, paths: set[str], txid: str) -> bool:
    """Replace files by what the origin has of them; return False where this node cannot read them there."""
    content = known.record.content
    manifest = await asyncio.to_thread(store.manifest, content)
    data = await asyncio.to_thread(origins.places_of, node, content)
    places = await origins.usable(node, known.record.owner, data, manifest)
    if places is None:
        return False
    where, staged = places.pinned(manifest), store.root / "incoming" / txid / "data"

    def prepare() -> None:
        with store.stage(txid) as staging:
            staging.prepare(manifest)

    async def bring(path: str) -> None:
        target = staged / path
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with translated(path):
                await origins.port(node).fetch(where[path], fd, token=NODE_ACCOUNT)
        finally:
            os.close(fd)
        await asyncio.to_thread(replace_file, store, content, path, target)
        node.counters.add("origin.files_repaired")

    await asyncio.to_thread(prepare)
    await each(sorted(paths), bring, width=node.config.origin.threads)
    return True


async def _refetch_as(node: Node, store: Store, known: Known, paths: set[str], txid: str) -> None:
    metadata = await obtain(node, known, Progress())
    staged = store.root / "incoming" / txid / "data"
    ballast = node.space.ballast(txid)

    def prepare() -> None:
        with store.stage(txid) as staging:
            staging.prepare(metadata.manifest)
        if ballast is not None:
            ballast.use(ballast.left)

    def put_back() -> None:
        for path in sorted(paths):
            replace_file(store, known.record.content, path, staged / path)

    await asyncio.to_thread(prepare)
    job = FetchJob(
        content=known.record.content,
        manifest=metadata.manifest,
        digests=metadata.digests,
        data=staged,
        only=frozenset(paths),
        proven=True,
    )
    async with meeting.held(node, known.record.id) as holders:
        await holders.met.wait()
        await node.direct.fetch(job, holders.direct)
    await asyncio.to_thread(put_back)


async def _clean_up(node: Node, store: Store, txid: str) -> None:
    trashed = await asyncio.to_thread(store.discard, txid)
    await node.space.release(txid)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)


def _words(one: Damage) -> str:
    if one.expected or one.found:
        return f"{one.kind}: expected {one.expected or 'nothing'}, found {one.found or 'nothing'}"
    return str(one.kind)

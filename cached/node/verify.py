"""Verify: read a replica against its manifest, name what is damaged, and repair it from another holder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cached import wire
from cached.catalog.rows import ReservationRow
from cached.errors import Busy, CachedError, NotFound
from cached.leases import capacity
from cached.node import sources
from cached.node.access import check_manage, may_read, resolve
from cached.node.caller import Caller
from cached.node.critical import to_the_end
from cached.node.metadata import obtain
from cached.node.node import Node
from cached.node.shelf import Known
from cached.replication.transfer import FetchJob, Progress
from cached.sets.names import SetRef
from cached.storage.disk import Store
from cached.storage.repair import mend, replace_file
from cached.storage.scrub import Damage
from cached.storage.scrub import verify as scrub

Report = Callable[[wire.Progress], None]


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
    store = node.stores[row.tier]
    damages = await _scrub(node, store, known, progress)
    if damages:
        node.counters.note("verify.damaged", known.record.name, damaged=len(damages))
    left = await heal(node, store, known, damages) if damages and repair else damages
    remaining = {damage.path for damage in left}
    return wire.VerifyReply(
        ok=not left,
        damaged=[
            wire.Damage(path=damage.path, reason=_words(damage), repaired=damage.path not in remaining)
            for damage in damages
        ],
        bytes=known.record.bytes,
    )


async def _scrub(node: Node, store: Store, known: Known, progress: Report | None) -> list[Damage]:
    done = 0
    loop = asyncio.get_running_loop()

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
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


async def heal(node: Node, store: Store, known: Known, damages: list[Damage]) -> list[Damage]:
    """Mend what needs no bytes, fetch the rest from a holder, and return what is still damaged. Raises `NoSpace`."""
    content, txid = known.record.content, node.new_id()
    await node.space.reserve(await asyncio.to_thread(_reservation, store, known, damages, txid))
    try:
        async with node.locks(f"content {content}"):
            left = await asyncio.to_thread(mend, store, content, damages)
            broken = {damage.path for damage in left if damage.needs_bytes and damage.path}
            if broken:
                await _refetch(node, store, known, broken, txid)
    except CachedError as error:
        node.counters.note("verify.not_repaired", error.message, set=known.record.id[:8])
    finally:
        await to_the_end(_clean_up(node, store, txid))
    await node.swarm.unseed(content)
    return await _scrub(node, store, known, None)


def _reservation(store: Store, known: Known, damages: list[Damage], txid: str) -> ReservationRow:
    record, size = known.record, capacity.CONTENT
    paths = {damage.path for damage in damages if damage.needs_bytes}
    if not any(damage.kind == "manifest" for damage in damages):
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


async def _refetch(node: Node, store: Store, known: Known, paths: set[str], txid: str) -> None:
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
        leaves=metadata.leaves,
        data=staged,
        only=frozenset(paths),
    )
    async with sources.introduced(node, known.record.id) as holders:
        await node.direct.fetch(job, holders.direct)
    await asyncio.to_thread(put_back)


async def _clean_up(node: Node, store: Store, txid: str) -> None:
    trashed = await asyncio.to_thread(store.discard, txid)
    await node.space.release(txid)
    if trashed is not None:
        await asyncio.to_thread(store.empty, trashed)


def _words(damage: Damage) -> str:
    if damage.expected or damage.found:
        return f"{damage.kind}: expected {damage.expected or 'nothing'}, found {damage.found or 'nothing'}"
    return str(damage.kind)

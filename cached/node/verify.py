"""Verify: read a replica against its manifest, name what is damaged, and repair it from another holder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cached import wire
from cached.errors import CachedError, NotFound
from cached.node import sources
from cached.node.access import check_manage, may_read, resolve
from cached.node.caller import Caller
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
    left = await _repair(node, store, known, damages) if damages and repair else damages
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

    return await asyncio.to_thread(scrub, store, known.record.content, fresh=True, progress=count)


async def _repair(node: Node, store: Store, known: Known, damages: list[Damage]) -> list[Damage]:
    """Mend what needs no bytes, fetch the rest from a holder, and return what is still damaged."""
    content = known.record.content
    async with node.locks(f"content {content}"):
        left = await asyncio.to_thread(mend, store, content, damages)
        broken = [damage for damage in left if damage.needs_bytes and damage.path]
        if broken:
            try:
                await _refetch(node, store, known, {damage.path for damage in broken})
            except CachedError as error:
                node.counters.note("verify.not_repaired", error.message, set=known.record.id[:8])
    await node.swarm.unseed(content)
    return await _scrub(node, store, known, None)


async def _refetch(node: Node, store: Store, known: Known, paths: set[str]) -> None:
    metadata = await obtain(node, known, Progress())
    txid = node.new_id()

    def prepare() -> None:
        with store.stage(txid) as staging:
            staging.prepare(metadata.manifest)

    def put_back() -> None:
        for path in sorted(paths):
            replace_file(store, known.record.content, path, staged / path)

    staged = store.root / "incoming" / txid / "data"
    try:
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
    finally:
        trashed = await asyncio.to_thread(store.discard, txid)
        if trashed is not None:
            await asyncio.to_thread(store.empty, trashed)


def _words(damage: Damage) -> str:
    if damage.expected or damage.found:
        return f"{damage.kind}: expected {damage.expected or 'nothing'}, found {damage.found or 'nothing'}"
    return str(damage.kind)

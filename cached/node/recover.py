"""Recover: what a start makes of what the last stop, clean or not, has left. Before any socket opens.

Catalog and directories are compared tier by tier; what never spoke is removed, what was promised is finished or fetched
again, and when the database was lost the sets are adopted from the records that lie beside their bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cached import faults
from cached.catalog.rows import ContentRow, ReplicaRow, TransferRow
from cached.errors import CachedError
from cached.leases import capacity
from cached.node import damage, receive, sharing
from cached.node.node import Node, Trouble
from cached.node.shelf import Changes, Known
from cached.node.verify import heal, scan
from cached.sets.set import Tier
from cached.storage import links
from cached.storage import reconcile as rules
from cached.storage.disk import Store
from cached.storage.repair import close_directories
from cached.storage.survey import survey

RECOVER_CLEANED = faults.declare("recover.cleaned")
RECOVER_ADOPTED = faults.declare("recover.adopted")

#: Lease of an adopted set, in seconds.
STARTER = 86_400
#: Bytes a second that are read to verify what an earlier boot has left: jobs read at the same time.
RATE = 256 << 20


@dataclass(kw_only=True)
class Findings:
    """What is left to do in the background once the node runs."""

    #: Directories in the trash, to be emptied.
    trash: list[tuple[Store, Path]] = field(default_factory=list)
    #: Contents to be taken back, by store.
    adopt: list[tuple[Store, str]] = field(default_factory=list)
    #: Sets whose bytes are gone or damaged.
    broken: list[tuple[str, bool, str]] = field(default_factory=list)
    #: Contents that only got a glance.
    verify: list[tuple[Store, str]] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)


async def at_start(node: Node) -> Findings:
    """Bring catalog and directories into agreement, quickly; return what may be finished later."""
    findings = Findings(transfers=node.catalog.read_now(lambda tx: tx.transfers()))
    lost = node.catalog.fresh
    for tier, store in node.stores.items():
        await asyncio.to_thread(_unlink, store, findings.transfers)
        facts = _facts(node, tier, findings.transfers, lost=lost)
        unspoken = _never_spoken(node, tier)
        for action in rules.reconcile(facts, await asyncio.to_thread(survey, store)):
            todo: rules.Action = action
            if isinstance(action, rules.Adopt) and not lost and action.content in unspoken:
                todo = rules.RemoveOrphan(content=action.content)
            await _act(node, tier, store, todo, findings)
    await _without_tiers(node)
    await _close_directories(node)
    boot = node.now().boot_id
    seen = {content for _, content in findings.verify} | {content for content, _, _ in findings.broken}
    for row in node.shelf.replicas.values():
        if row.state == "COMMITTED" and row.verified_boot != boot and row.content not in seen:
            seen.add(row.content)
            findings.verify.append((node.stores[row.tier], row.content))
    faults.point(RECOVER_CLEANED)
    if not lost or not findings.adopt:
        await node.catalog.write(lambda tx: tx.mark_reconciled())
    return findings


def _unlink(store: Store, transfers: Iterable[TransferRow]) -> None:
    """Take out of what is on its way what was linked from other contents: it is linked anew, from what is here then."""
    for row in transfers:
        if row.tier == store.tier:
            links.unlink_all(store.root / "incoming" / row.txid)


async def _close_directories(node: Node) -> None:
    """Undo what a repair does to directories while it works: it is known of which files, in all sets that have them."""
    for (content, tier), paths in node.shelf.withheld.items():
        if tier in node.stores:
            await asyncio.to_thread(close_directories, node.stores[tier], content, paths)


async def _without_tiers(node: Node) -> None:
    """Forget what lay in a tier that this node does not have any more.

    A memory tier that was switched off, or failed.
    """
    for tier in {tier for _, tier in node.shelf.contents} - node.stores.keys():
        for content in [content for content, its_tier in node.shelf.contents if its_tier == tier]:
            await _drop_rows(node, tier, content)
    for row in node.catalog.read_now(lambda tx: tx.reservations()):
        if row.tier not in node.stores:
            await node.catalog.write(lambda tx, txid=row.txid: tx.delete_reservation(txid))  # type: ignore[misc]


def _facts(node: Node, tier: Tier, transfers: Iterable[TransferRow], *, lost: bool) -> rules.CatalogFacts:
    reservations = node.catalog.read_now(lambda tx: tx.reservations())
    return rules.CatalogFacts(
        contents=tuple(
            rules.KnownContent(content=row.content, state=row.state, bytes=row.bytes)
            for row in node.shelf.contents.values()
            if row.tier == tier
        ),
        reservations=frozenset(row.txid for row in reservations if row.tier == tier),
        transfers={row.txid: row.content for row in transfers if row.tier == tier},
        lost=lost,
    )


def _never_spoken(node: Node, tier: Tier) -> set[str]:
    """Return contents that a create published but never committed: their reservation still names them."""
    rows = node.catalog.read_now(lambda tx: tx.reservations())
    return {row.content for row in rows if row.tier == tier and row.purpose != "replica" and row.content}


async def _act(node: Node, tier: Tier, store: Store, action: rules.Action, findings: Findings) -> None:
    """Carry one action out. Transfers to resume are left to the caller, until peers can be reached."""
    match action:
        case rules.EmptyTrash(name=name):
            findings.trash.append((store, store.root / "trash" / name))
        case rules.DropIncoming(txid=txid) | rules.ReleaseReservation(txid=txid):
            await _trash(findings, store, store.discard(txid))
            await node.catalog.write(lambda tx: tx.delete_reservation(txid))
        case rules.FinishGoing(content=content) | rules.RemoveOrphan(content=content):
            await _finish(node, tier, store, content, findings)
        case rules.ForgetComing(content=content):
            await _drop_rows(node, tier, content)
        case rules.Adopt(content=content):
            findings.adopt.append((store, content))
        case rules.VerifyLater(content=content):
            findings.verify.append((store, content))
        case rules.ReportDamaged():
            await _damaged(node, tier, store, action, findings)


async def _damaged(
    node: Node, tier: Tier, store: Store, action: rules.ReportDamaged, findings: Findings
) -> None:
    """Memory copies may go with a boot; a broken promise of the disk tier is mended in the background."""
    if tier == "disk":
        findings.broken.append((action.content, action.missing, action.reason))
        return
    await _drop_rows(node, tier, action.content)
    await _trash(findings, store, store.retire(action.content))


async def _finish(node: Node, tier: Tier, store: Store, content: str, findings: Findings) -> None:
    """Go on with a deletion, unless a process that outlived the daemon still reads from it."""
    if node.pins.pinned(content):
        return
    await sharing.leave(node, store, content)
    await _trash(findings, store, store.retire(content))
    await _drop_rows(node, tier, content)


async def _trash(findings: Findings, store: Store, trashed: Path | None) -> None:
    if trashed is not None:
        findings.trash.append((store, trashed))


async def _drop_rows(node: Node, tier: Tier, content: str) -> None:
    gone = [
        set_id for set_id in node.shelf.sets_of_content(content) if node.shelf.replicas[set_id].tier == tier
    ]
    present = (content, tier) in node.shelf.contents
    if gone or present:
        await node.shelf.keep(
            Changes(drop_replicas=tuple(gone), drop_contents=((content, tier),) if present else ())
        )


async def afterwards(node: Node, findings: Findings) -> None:
    """Finish in the background what the start did not need to wait for.

    One failure keeps nothing else from being done.
    """
    for store, trashed in findings.trash:
        await _attempt(node, asyncio.to_thread(store.empty, trashed))
    for store, content in findings.adopt:
        await _attempt(node, _adopt(node, store, content))
    for store in {store for store, _ in findings.adopt}:
        await _attempt(node, sharing.recount(node, store.tier))
    if findings.adopt:
        await _attempt(node, node.catalog.write(lambda tx: tx.mark_reconciled()))
    for content, missing, reason in findings.broken:
        await _attempt(node, _broken(node, content, missing, reason))
    for store, content in findings.verify:
        await _attempt(node, _look_closer(node, store, content))


async def _attempt(node: Node, work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except CachedError as error:
        node.counters.note("recover.failed", error.message)


async def _look_closer(node: Node, store: Store, content: str) -> None:
    """Compare a content with its manifest.

    After an unclean end of the machine, or where the start had no time for it.
    """
    if not store.has(content):
        return
    damages = await scan(node, store, content, rate=RATE)
    await damage.settle(node, store, content, damages)
    if damages:
        await heal(node, store, content, damages)


async def _adopt(node: Node, store: Store, content: str) -> None:
    """Take the sets of a content back after the database was lost, once its bytes are verified."""
    if any(found.needs_bytes for found in await scan(node, store, content)):
        words = f"content {content[:12]} was found without a database and is damaged; it is kept aside"
        node.troubles.append(Trouble(words))
        node.counters.add("adopt.damaged")
        return
    for signed in store.get_records(content):
        try:
            node.identity.verify(signed)
        except CachedError as error:
            node.counters.note("adopt.refused", error.message, content=content[:12])
            continue
        known = Known.heard(signed, node.now(), local=signed.record().originator == node.id)
        known = known.lasting(node.later(known.lease, node.after(STARTER)))
        await _take_back(node, store, known)


async def _take_back(node: Node, store: Store, known: Known) -> None:
    record, now = known.record, node.now()
    newest = node.shelf.known.get(record.id)
    if record.id in node.shelf.replicas or (newest is not None and newest.record.status == "deleted"):
        return
    physical = capacity.physical(await asyncio.to_thread(store.manifest, record.content))
    await node.shelf.keep(
        Changes(
            sets=(known,) if newest is None or newest.record.revision < record.revision else (),
            contents=(
                ContentRow(
                    content=record.content,
                    tier=store.tier,
                    bytes=record.bytes,
                    physical=physical,
                    state="STABLE",
                ),
            ),
            replicas=(
                ReplicaRow(
                    set_id=record.id,
                    content=record.content,
                    tier=store.tier,
                    state="COMMITTED",
                    grant=node.after(STARTER),
                    granted_seconds=STARTER,
                    bytes=record.bytes,
                    owner=record.owner,
                    created_wall=now.wall,
                    verified_boot=now.boot_id,
                ),
            ),
        )
    )
    faults.point(RECOVER_ADOPTED)
    node.counters.note("adopted", record.name, set=record.id[:8], owner=record.owner)


async def _broken(node: Node, content: str, missing: bool, reason: str) -> None:
    """A promise is broken: say so, and get what is lost from somebody else, or wait until somebody has it.

    Damaged files alone are repaired: the others are served meanwhile, and nothing is thrown away before it is
    replaced.
    """
    set_ids = tuple(sorted(node.shelf.sets_of_content(content)))
    rows = [node.shelf.replicas[set_id] for set_id in set_ids]
    if not missing:
        for tier in sorted({row.tier for row in rows}):
            await _look_closer(node, node.stores[tier], content)
        return
    node.troubles.append(Trouble(reason, set_ids))
    names = ", ".join(node.shelf.known[set_id].record.name for set_id in set_ids)
    node.counters.note("bytes_lost", names, content=content[:12])
    for row in [row for row in rows if row.state == "COMMITTED"]:
        store, lost = node.stores[row.tier], node.shelf.contents[(content, row.tier)]
        node.roots.drop(store, content)
        await receive.refetch(node, replace(row, reason=reason))
        if lost.family:  # it may have been charged for what others still have
            await sharing.recount(node, row.tier, lost.family)

"""Sharing: files that an owner's contents have in common lie once on this node, and travel to it once.

Only files of contents that the same owner holds here are linked: what others have is not to be told by what a set
takes, or by how fast it comes. A content that files are being linked from stays until what they are linked into is
committed or given up, so that at any time somebody is charged for each file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial

from msgspec.structs import replace

from cached import faults
from cached.catalog.rows import ContentRow
from cached.catalog.tx import Tx
from cached.critical import to_the_end
from cached.errors import CachedError
from cached.leases import sharing as rule
from cached.leases.reclaim import Candidate
from cached.node.node import Node
from cached.node.shelf import Changes, ContentEdit
from cached.sets.manifest import Manifest
from cached.sets.set import Tier
from cached.storage import links, repair
from cached.storage.disk import Store
from cached.storage.links import NOTHING, Donor, Linked, SameFile
from cached.storage.staging import Staging

SHARING_LEFT = faults.declare("sharing.left")


async def link(
    node: Node, store: Store, owner: str, txid: str, content: str, staging: Staging, manifest: Manifest
) -> Linked:
    """Link into a staging area what of a content lies here in other contents of its owner.

    They stay until `release`. Nothing is linked when the content is here already.
    """
    if store.has(content):
        return NOTHING
    donors = _donors(node, store.tier, owner, content)
    if not donors:
        return NOTHING
    _lend(node, (donor.content for donor in donors), txid)
    linked = NOTHING
    try:
        linked = await to_the_end(
            asyncio.to_thread(links.link, store, staging, manifest, donors, node.file_index)
        )
    finally:
        _take_back(node, txid, linked.donors)
    node.counters.add("files_linked", len(linked.paths))
    node.counters.add("bytes_linked", linked.logical)
    return linked


def may_link(node: Node, store: Store, owner: str, content: str) -> bool:
    """Tell whether there is anything that `link` could link from."""
    return bool(_donors(node, store.tier, owner, content))


def changing(node: Node, tier: Tier) -> AbstractAsyncContextManager[None]:
    """Hold the lock under which families change: who is in them, and what is theirs."""
    return node.locks(f"family {tier}")


def joining(node: Node, tier: Tier, linked: Linked) -> AbstractAsyncContextManager[None]:
    """Hold it if what is to be kept was linked."""
    return changing(node, tier) if linked.donors else nullcontext()


def _donors(node: Node, tier: Tier, owner: str, content: str) -> list[Donor]:
    """Return the contents of a tier that an owner has here, the newest first."""
    mine = sorted(
        (row for row in node.shelf.replicas.values() if row.owner == owner and row.state == "COMMITTED"),
        key=lambda row: (-row.created_wall, row.set_id),
    )
    boot = node.now().boot_id
    found: dict[str, Donor] = {}
    for row in mine:
        here = node.shelf.contents.get((row.content, tier))
        if row.content != content and here is not None and here.state == "STABLE":
            withheld = node.shelf.withheld.get((row.content, tier), frozenset())
            trusted = row.verified_boot == boot and row.tier == tier
            if "" not in withheld:
                found.setdefault(row.content, Donor(content=row.content, trusted=trusted, withheld=withheld))
    return list(found.values())


def _lend(node: Node, contents: Iterable[str], txid: str) -> None:
    for content in contents:
        node.lent.setdefault(content, set()).add(txid)


def _take_back(node: Node, txid: str, kept: Iterable[str] = ()) -> None:
    for content in [one for one, holders in node.lent.items() if txid in holders and one not in kept]:
        node.lent[content].discard(txid)
        if not node.lent[content]:
            del node.lent[content]


def release(node: Node, txid: str) -> None:
    """Let contents go again that were linked from: what they were linked into is committed, or in the trash."""
    _take_back(node, txid)


def landing(row: ContentRow, linked: Linked) -> ContentEdit:
    """Return the edit by which a content that was linked comes to be here: charged with what is new, in the family."""

    def edit(tx: Tx) -> Iterable[ContentRow]:
        here = tx.content(row.content, row.tier)
        if here is not None and here.state == "STABLE":
            return  # its bytes were here before, and what was linked is gone
        if not linked.donors:
            yield row
            return
        donors = [one for name in linked.donors if (one := tx.content(name, row.tier)) is not None]
        merged = {donor.family for donor in donors if donor.family}
        family = min(merged, default=row.content)
        if len(merged) > 1:
            donors += [
                one for one in tx.contents() if one.tier == row.tier and one.family in merged - {family}
            ]
        for donor in donors:
            yield replace(donor, family=family)
        yield replace(row, physical=row.physical - linked.bytes, family=family)

    return edit


async def same_files(node: Node, store: Store, content: str, paths: Collection[str]) -> list[SameFile]:
    """Return which files of other contents here are these files of a content: path, other content, its path there."""
    row = node.shelf.contents.get((content, store.tier))
    if row is None or not row.family or not paths:
        return []
    return await asyncio.to_thread(links.same, store, content, paths, _kin(node, row))


def _kin(node: Node, row: ContentRow) -> list[str]:
    return [
        one.content
        for one in node.shelf.contents.values()
        if (one.tier, one.family, one.state) == (row.tier, row.family, "STABLE")
        and one.content != row.content
    ]


async def mend(node: Node, store: Store, content: str, paths: Collection[str]) -> set[str]:
    """Mend files of a content by those of its family that have the same bytes, and are whole; return their paths."""
    row = node.shelf.contents.get((content, store.tier))
    if row is None or not row.family or not paths:
        return set()
    kin = {one: node.shelf.withheld.get((one, store.tier), frozenset()) for one in _kin(node, row)}
    return await asyncio.to_thread(links.mend, store, content, paths, kin)


async def pass_on(node: Node, store: Store, content: str, files: Collection[SameFile]) -> None:
    """After files of a content were replaced: put them in the place of those that they were one with, too."""
    for path, other, its_path in files:
        try:
            await asyncio.to_thread(repair.replace_by_link, store, other, its_path, content, path)
        except CachedError as error:  # it has just gone; or its own verification mends it
            node.counters.note("sharing.not_passed_on", error.message, content=other[:12])
    for other in {other for _, other, _ in files}:
        await node.swarm.unseed(other)


async def recount_kin(node: Node, store: Store, content: str) -> None:
    """After a repair, which may have left a family with one file more or less."""
    row = node.shelf.contents.get((content, store.tier))
    if row is not None and row.family:
        await recount(node, store.tier, row.family)


async def leave(node: Node, store: Store, content: str) -> None:
    """Before a content's directory goes to the trash: charge what others hold of its files to them. May be repeated."""
    row = node.shelf.contents.get((content, store.tier))
    if row is None or not row.family:
        return
    back = row.physical
    try:
        back = rule.returned(*await asyncio.to_thread(links.names, store, content))
    except CachedError as error:  # its manifest is damaged, or it is not there at all
        node.counters.note("sharing.recounted", error.message, content=content[:12])
        node.fly(f"recount {row.family}", partial(recount, node, store.tier, row.family))

    def settle(tx: Tx) -> Iterable[ContentRow]:
        gone = tx.content(content, store.tier)
        if gone is None or not gone.family:
            return
        rows = {
            one.content: one for one in tx.contents() if (one.tier, one.family) == (store.tier, gone.family)
        }
        del rows[content]
        changed = rule.bequest({one: rows[one].physical for one in rows}, gone.physical - back)
        for one, physical in changed.items():
            yield replace(rows[one], physical=physical)
        yield replace(gone, physical=back, family="")

    await node.shelf.keep(Changes(content_edits=(settle,)))
    faults.point(SHARING_LEFT)


async def recount(node: Node, tier: Tier, family: str = "") -> None:
    """Charge a family anew, by what lies there; without one, find out who shares with whom in all of a tier as well.

    For when rows were lost, or directories, or files were replaced. Who is in a family stays there: what they have in
    common may just be damaged in one of them.
    """
    store = node.stores[tier]
    async with changing(node, tier):
        full: dict[str, int] = {}
        names: list[rule.Name] = []
        for row in list(node.shelf.contents.values()):
            if row.tier == tier and family in ("", row.family):
                with suppress(CachedError):  # what cannot be read keeps its charge
                    full[row.content], its = await asyncio.to_thread(links.names, store, row.content)
                    names += its
        charged = rule.charges(full, names)
        label = {one: min(kin) for kin in rule.families(names) for one in kin}

        def count(tx: Tx) -> Iterable[ContentRow]:
            rows = [row for one in full if (row := tx.content(one, tier)) is not None]
            return [
                replace(row, physical=charged[row.content], family=family or label.get(row.content, ""))
                for row in rows
            ]

        await node.shelf.keep(Changes(content_edits=(count,)))


async def appraise(
    node: Node, tier: Tier, candidates: list[Candidate]
) -> tuple[list[Candidate], dict[frozenset[str], int]]:
    """Return candidates for being reclaimed with what really comes back, and what does when several go together."""
    store, names, found = node.stores[tier], [], []
    for one in candidates:
        alone = one.bytes
        if one.may_go() and node.shelf.contents[(one.content, tier)].family:
            with suppress(CachedError):  # a damaged manifest
                full, its = await asyncio.to_thread(links.names, store, one.content)
                names += its
                alone = rule.own(full, its)
        found.append(replace(one, bytes=alone))
    return found, rule.groups(names)

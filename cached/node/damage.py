"""Damage: what is known not to match its manifest. It is remembered over restarts, and kept from readers and peers
until it is repaired; whatever else the set holds goes on being served.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from cached.catalog.rows import CheckRow, ReplicaRow
from cached.errors import Busy, IntegrityFailed
from cached.node import announce, sharing
from cached.node.node import Node, Trouble
from cached.node.shelf import Changes, Known
from cached.sets.paths import follow
from cached.sets.set import Tier
from cached.storage import repair
from cached.storage.disk import Store
from cached.storage.scrub import Damage

#: Damaged paths that are told apart; with more of them the whole content is withheld.
MOST = 10_000
#: Damaged paths that are named in words.
NAMED = 3


def whole(node: Node, content: str, tier: Tier) -> bool:
    """Tell whether nothing of a content is known to be damaged."""
    return (content, tier) not in node.shelf.withheld


def check(node: Node, known: Known, store: Store, path: str) -> None:
    """Raise `IntegrityFailed` for a path whose bytes are known to be damaged here."""
    withheld = node.shelf.withheld.get((known.record.content, store.tier))
    if withheld is None:
        return
    ways = {follow({}, path) or ""}
    if "" not in withheld:  # then the manifest itself can be read
        ways.add(follow(node.manifests.links(store, known.record.content), path) or "")
    if any("" in withheld or _parents(way) & withheld for way in ways):
        name = known.record.name
        raise IntegrityFailed(
            f"{path or 'the manifest'!r} of {name} is damaged on this node, and no other node has given it yet",
            hint=f"cached verify {name} --repair",
            path=path,
            set=known.record.id,
        )


def _parents(path: str) -> frozenset[str]:
    parts = path.split("/")
    return frozenset("/".join(parts[: count + 1]) for count in range(len(parts)))


def check_whole(node: Node, known: Known) -> None:
    """Raise `IntegrityFailed` when this node's copy is not fit to be handed on."""
    row = node.shelf.replicas.get(known.record.id)
    if row is not None and not whole(node, row.content, row.tier):
        raise IntegrityFailed(
            f"this node's copy of {known.record.name} is damaged and waits for its repair",
            hint=f"cached verify {known.record.name} --repair",
            set=known.record.id,
        )


async def settle(node: Node, store: Store, content: str, damages: Sequence[Damage]) -> bool:
    """Write down what a verification has found, withhold what is damaged and release what is not any more.

    Return whether all that is served is whole. Nothing happens for a content that is just going.
    """
    bad = frozenset(damage.path for damage in damages if damage.needs_bytes or damage.kind == "link")
    if len(bad) > MOST:
        bad = frozenset({""})
    key = (content, store.tier)
    before = node.shelf.withheld.get(key, frozenset())
    now = node.now()
    row = _row(content, store.tier, bad, now.wall, now.boot_id)
    verified = () if bad else tuple(_committed(node, store, content))

    def confirmed(stored: ReplicaRow) -> ReplicaRow:
        return msgspec.structs.replace(stored, verified_boot=now.boot_id)

    try:
        await node.shelf.keep(
            Changes(checks=(row,), edits=tuple((one.set_id, confirmed) for one in verified))
        )
    except Busy:  # it goes
        return True
    node.roots.drop(store, content)  # a repair may have made directories anew
    if bad - before:
        await node.swarm.unseed(content)
        await asyncio.to_thread(repair.close_off, store, content, bad)
    if before - bad and "" not in bad:
        await asyncio.to_thread(repair.open_again, store, content, before - bad)
    if bad != before:
        _tell(node, store, content, bool(bad), row.reason)
        await _spread(node, store, content, bad - before, before - bad)
    return not bad


def _row(content: str, tier: Tier, bad: frozenset[str], wall: float, boot: str) -> CheckRow:
    return CheckRow(
        content=content,
        tier=tier,
        wall=wall,
        boot=boot,
        damaged=msgspec.json.encode(sorted(bad)) if bad else b"",
        reason=_words(bad) if bad else "",
    )


async def _spread(
    node: Node, store: Store, content: str, worse: frozenset[str], better: frozenset[str]
) -> None:
    """Withhold and release the files of other contents that are the same: what is true of one name is of all."""
    changes: dict[str, tuple[set[str], set[str]]] = {}
    for path, other, its_path in await sharing.same_files(node, store, content, worse | better):
        changes.setdefault(other, (set(), set()))[path in better].add(its_path)
    for other, (more, less) in changes.items():
        key = (other, store.tier)
        before, known = node.shelf.withheld.get(key, frozenset()), node.shelf.checks.get(key)
        bad = (before | more) - less
        if "" in before or bad == before:
            continue
        row = _row(other, store.tier, bad, known.wall if known else 0.0, known.boot if known else "")
        with contextlib.suppress(Busy):
            await node.shelf.keep(Changes(checks=(row,)))
            await node.swarm.unseed(other)
            _tell(node, store, other, bool(bad), row.reason)


def _committed(node: Node, store: Store, content: str) -> list[ReplicaRow]:
    rows = [node.shelf.replicas[set_id] for set_id in node.shelf.sets_of_content(content)]
    return [row for row in rows if row.state == "COMMITTED" and row.tier == store.tier]


def _tell(node: Node, store: Store, content: str, damaged: bool, reason: str) -> None:
    names = _names(node, content)
    if damaged:
        node.counters.note("bytes_damaged", f"{names}: {reason}", content=content[:12], tier=store.tier)
    else:
        node.counters.note("bytes_repaired", names, content=content[:12], tier=store.tier)
        node.stirred.set()
    announce.publish(node)


def _names(node: Node, content: str) -> str:
    return ", ".join(
        node.shelf.known[set_id].record.name for set_id in sorted(node.shelf.sets_of_content(content))
    )


def _words(bad: frozenset[str]) -> str:
    if "" in bad:
        return "damaged: its manifest, or too much of it"
    named = ", ".join(sorted(bad)[:NAMED])
    return f"damaged: {named}" + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")


def troubles(node: Node) -> list[Trouble]:
    """Return what is damaged, for an operator."""
    return [
        Trouble(
            f"{node.shelf.checks[key].reason}; repaired as soon as another node has it",
            tuple(sorted(node.shelf.sets_of_content(key[0]))),
        )
        for key in sorted(node.shelf.withheld)
    ]

"""The ledger: what each user takes of this node by tier and scope, and what Cloud Storage was spared or asked for.

What is held is looked at every 30 s (`cached.leases.meter`) and written down with the mark from which the next start
goes on: killed at any moment, a node loses what was read within the last 30 s, and nothing of what lies on disk.

Sets count for their owner with the bytes that count against the quota: as long as their lease here lasts, each set with
all of its bytes, and again in memory when they are wanted there. Copies of objects count for those who are known to
use them, in equal parts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec

from cached.catalog.rows import LedgerRow
from cached.catalog.tx import Tx
from cached.critical import to_the_end
from cached.errors import CachedError
from cached.leases import meter
from cached.leases.deadline import Moment
from cached.leases.meter import Charge, Figures, Line
from cached.node.node import Node
from cached.objects.entry import Entry

#: Seconds between two looks.
EVERY: Final = 30.0
#: Hours that the ledger looks back.
KEPT: Final = 400 * 24
#: Key in `meta`: the moment up to which everything is charged.
MARK: Final = "ledger"
#: Copies counted before others get their turn.
_AT_ONCE: Final = 2000


async def begin(node: Node) -> None:
    """Charge what lay here while the node did not run; before anybody may bring more."""
    mark = await node.catalog.read(_mark)
    node.meter.resume(mark, await held(node), node.now())
    node.objects.charged = partial(moved, node)
    await write(node)


async def run(node: Node) -> None:
    """Write down what users take, until cancelled, and then once more."""
    try:
        while True:
            await asyncio.sleep(EVERY)
            await _try(node)
    finally:
        await _try(node)


async def write(node: Node) -> None:
    """Write down all that was taken up to now. Raises what the catalog raises; then it is written down later."""
    async with node.locks("ledger"):
        await to_the_end(_write_down(node))


async def _try(node: Node) -> None:
    try:
        await write(node)
    except CachedError as error:
        node.counters.note("ledger.failed", error.message)


async def _write_down(node: Node) -> None:
    here = await held(node)
    now = node.now()
    node.objects.hits.settle()
    mark = node.meter.look(here, now)
    charges = node.meter.take(now)
    try:
        await node.catalog.write(partial(_write, mark, charges, int(now.wall // meter.HOUR)))
    except CachedError:
        node.meter.give_back(charges)
        raise


def moved(
    node: Node, user: str, scope: str, parts: Mapping[str, int], operations: int, reads: int = 1
) -> None:
    """Charge a user for bytes of objects by where they came from, and for requests to Cloud Storage."""
    for tier, figures in meter.read(parts, operations, reads):
        node.meter.moved(Line(user, "object", tier, scope), figures)


def spent(node: Node, owner: str, scope: str, size: int, operations: int) -> None:
    """Charge the owner of a set for bytes moved to or from Cloud Storage for it, and the requests that took."""
    node.meter.moved(
        Line(owner, "set", "origin", scope), Figures(spent_bytes=size, spent_operations=operations)
    )


def spent_on(node: Node, set_id: str, size: int, operations: int) -> None:
    """Do so for the owner of a set that this node knows."""
    known = node.shelf.known.get(set_id)
    if known is not None:
        spent(node, known.record.owner, known.record.scope, size, operations)


async def held(node: Node) -> dict[Line, float]:
    """Return the bytes that users hold here now."""
    lines: Counter[Line] = Counter()
    _sets(node, lines)
    for number, entry in enumerate(node.objects.tiers.index, 1):
        _copy(entry, lines)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return dict(lines)


def _sets(node: Node, lines: Counter[Line]) -> None:
    for row in node.shelf.replicas.values():
        if row.state != "COMMITTED" or node.left(row.grant) <= 0:
            continue
        record = node.shelf.known[row.set_id].record
        lines[Line(row.owner, "set", row.tier, record.scope)] += row.bytes
        twin = (row.content, "memory") in node.shelf.contents
        if record.tier == "memory" and row.tier != "memory" and twin:
            lines[Line(row.owner, "set", "memory", record.scope)] += row.bytes


def _copy(entry: Entry, lines: Counter[Line]) -> None:
    for owner, scope, size in meter.shares(entry.size, entry.users, entry.scope):
        for tier in entry.held:
            lines[Line(owner, "object", tier, scope)] += size  # type: ignore[assignment]


def _write(mark: Moment, charges: list[Charge], hour: int, tx: Tx) -> None:
    tx.charge(*(_row(charge) for charge in charges))
    tx.forget_taken(hour - KEPT)
    tx.put_meta(MARK, msgspec.json.encode(mark).decode())


def _row(charge: Charge) -> LedgerRow:
    return LedgerRow(hour=charge.hour, **charge.line._asdict(), **msgspec.structs.asdict(charge.figures))


def _mark(tx: Tx) -> Moment | None:
    text = tx.get_meta(MARK)
    try:
        return None if text is None else msgspec.json.decode(text, type=Moment)
    except msgspec.MsgspecError:
        return None

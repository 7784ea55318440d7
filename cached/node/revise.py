"""Revise: update, extend and delete. Metadata only, the owner's only, each a new signed revision of the set's
record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from cached import faults, wire
from cached.catalog.rows import ReplicaRow
from cached.critical import to_the_end
from cached.errors import Busy, CachedError, LeaseRefused, NotFound, UsageError
from cached.leases import policy
from cached.node import announce, book, consent, memory, options, retire, views
from cached.node.access import check_manage, check_own, resolve
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.shelf import Changes, Known
from cached.peers.records import HolderEntry, Peer
from cached.sets.names import SetRef
from cached.sets.set import SignedRecord

UPDATE_KEPT = faults.declare("update.kept")
EXTEND_KEPT = faults.declare("extend.kept")
DELETE_KEPT = faults.declare("delete.kept")

#: Seconds that a holder gets to answer before its silence is reported.
PATIENCE = 10.0


async def update(node: Node, caller: Caller, ref: SetRef, changes: dict[str, Any]) -> wire.SetView:
    """Change requirements, replicas, methods, share or tier of a set. Raises `UsageError`, `BadExpression`,
    `Forbidden`.
    """
    known = resolve(node.shelf, caller, ref)
    check_own(caller, known, "update")
    checked = await _checked(node, changes)
    if checked.get("tier") == "memory" and known.record.id in node.shelf.replicas:
        await memory.ensure(node, known.record.content, known.record.owner)
    async with node.locks(f"record {known.record.id}"):
        fresh = book.revise(node, node.shelf.known[known.record.id], **checked)
        await book.keep(node, fresh)
    faults.point(UPDATE_KEPT)
    if checked.get("tier") == "disk" and not retire.needed(node, fresh.record.content, "memory"):
        await memory.evict(node, fresh.record.content)
    announce.publish(node, fresh.record.id)
    return views.set_view(node, fresh)


async def _checked(node: Node, changes: dict[str, Any]) -> dict[str, Any]:
    async def requirements(value: Any) -> str:
        return await options.requirements(node, wire.convert(value, str))

    async def later(check: Callable[[Any], Any], value: Any) -> Any:
        return check(value)

    checks: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "requirements": requirements,
        "share": lambda value: later(options.share, wire.convert(value, str)),
        "replicas": lambda value: later(options.replica_count, wire.convert(value, int)),
        "methods": lambda value: later(options.methods, wire.convert(value, tuple[str, ...])),
        "tier": lambda value: later(lambda tier: options.tier(node, tier), wire.convert(value, str)),
    }
    unknown = sorted(set(changes) - set(checks))
    if unknown or not changes:
        raise UsageError(
            f"{', '.join(unknown) or 'nothing'} cannot be updated", hint=f"one or more of {', '.join(checks)}"
        )
    return {key: await checks[key](value) for key, value in changes.items()}


async def extend(node: Node, caller: Caller, ref: SetRef, seconds: int, everywhere: bool) -> wire.ExtendReply:
    """Extend the set's lease; it never gets shorter, and each node decides about its own grant.

    Raises `LeaseRefused` when this node can promise nothing and is the only one asked.
    """
    known = resolve(node.shelf, caller, ref)
    check_own(caller, known, "extend")
    if seconds <= 0:
        raise UsageError("a lease is extended by a second at least")
    set_id = known.record.id
    async with node.locks(f"record {set_id}"):
        present = node.shelf.known[set_id]
        wanted = max(seconds, int(node.left(present.lease)))
        fresh = book.revise(node, present, lease_seconds=wanted)
        held = node.shelf.replicas.get(set_id)
        alone = not everywhere
        own = await to_the_end(_extend_here(node, fresh, seconds, alone=alone)) if held is not None else None
        if own is None or not own.granted:
            await book.keep(node, fresh)
    faults.point(EXTEND_KEPT)
    retire.refresh_record(node, fresh)
    announce.publish(node, set_id)
    grants = [own] if own is not None else []
    if everywhere:
        grants += await _ask_all(node, fresh, seconds)
    if held is None and not everywhere:
        grants.append(
            wire.GrantView(
                node=node.directory.name,
                granted=False,
                reason="this node holds no replica; holders renew their grants as the set's lease asks",
            )
        )
    return wire.ExtendReply(set=views.set_view(node, fresh), grants=grants)


async def _extend_here(node: Node, known: Known, seconds: int, *, alone: bool) -> wire.GrantView:
    """Make the new revision and this node's own longer grant durable together.

    Raises `LeaseRefused` when this node is `alone` in being asked; among others its refusal is one answer of many.
    """
    row = node.shelf.replicas[known.record.id]
    try:
        grant = policy.extension(
            node.left(row.grant), seconds, node.config.policy.max_lease, draining=node.draining
        )
        if row.state == "GOING":
            raise LeaseRefused("its replica here is just being deleted")
        if grant.seconds < min(seconds, known.record.min_lease_seconds):
            raise LeaseRefused(
                f"this node grants at most {grant.seconds} s, the set's least acceptable lease is"
                f" {known.record.min_lease_seconds} s"
            )
    except LeaseRefused as refusal:
        if alone:
            raise
        return wire.GrantView(node=node.directory.name, granted=False, reason=refusal.message)

    def longer(stored: ReplicaRow) -> ReplicaRow:
        if stored.state == "GOING":
            raise Busy("its replica here has just been given up", hint="try again")
        return node.longer(stored, grant.seconds)

    await node.shelf.keep(Changes(sets=(known,), edits=((row.set_id, longer),)))
    end = node.shelf.replicas[row.set_id].grant
    node.stirred.set(row.set_id)
    return wire.GrantView(
        node=node.directory.name,
        granted=True,
        seconds=round(node.left(end), 3),
        shortened=grant.shortened,
        reason=grant.reason,
    )


async def _ask_all(node: Node, known: Known, seconds: int) -> list[wire.GrantView]:
    signed = msgspec.to_builtins(known.aged(node.now()))

    async def ask(entry: HolderEntry) -> wire.GrantView:
        record = entry.node.record
        if not entry.node.alive:
            return wire.GrantView(
                node=record.name, granted=False, reason="the node does not answer; it is told when it returns"
            )
        try:
            answer = await node.link.call(
                record.id, "set.extend", {"record": signed, "seconds": seconds}, PATIENCE
            )
            return msgspec.convert(answer, wire.GrantView)
        except (CachedError, msgspec.ValidationError) as error:
            return wire.GrantView(
                node=record.name, granted=False, reason=getattr(error, "message", str(error))
            )

    return list(await asyncio.gather(*(ask(entry) for entry in _others(node, known.record.id))))


async def serve_extend(node: Node, peer: Peer, signed: SignedRecord, seconds: int) -> wire.GrantView:
    """Answer a peer whose user extends a set held here: by this node's policy, for no longer than the owner signed."""
    known = await book.learn(node, signed)
    consent.check_speaks(peer.domains, known.record.owner, f"node {peer.node_id[:8]}")
    seconds = min(seconds, known.record.lease_seconds)
    if known.record.id not in node.shelf.replicas:
        raise NotFound("this node does not hold that set")
    async with node.locks(f"record {known.record.id}"):
        view = await _extend_here(node, node.shelf.known[known.record.id], seconds, alone=False)
    announce.publish(node)
    return view


async def delete(
    node: Node, caller: Caller, ref: SetRef, everywhere: bool, dry_run: bool
) -> wire.DeleteReply:
    """Give up this node's replica (on the originator: withdraw the set), or delete the set on all nodes.

    Answers once it is durable here: new readers are refused at once, open readers finish. Raises `NotFound`,
    `Forbidden`.
    """
    known = resolve(node.shelf, caller, ref)
    check_manage(caller, known, "delete")
    record, here = known.record, node.shelf.replicas.get(known.record.id)
    withdraw = record.originator == node.id
    if not everywhere and not withdraw and here is None:
        raise NotFound(
            f"this node has no replica of {record.name}", hint="--everywhere deletes the set on all nodes"
        )
    state = "DELETED" if everywhere else ("WITHDRAWN" if withdraw else views.state_of(record))
    items = [_own_item(node, here)] if here is not None else []
    if everywhere:
        items += [_other_item(entry) for entry in _others(node, record.id)]
    if not dry_run:
        if everywhere or withdraw:
            await _end(node, known, "deleted" if everywhere else "withdrawn")
        else:
            node.rejections.add_own(record.id, "its owner gave up the replica on this node", seconds=86_400)
        await retire.give_up(node, record.id)
        announce.publish(node, record.id)
        if everywhere:
            items = items[: 1 if here is not None else 0] + await _tell_all(node, record.id)
    return wire.DeleteReply(set=record.id, name=record.name, state=state, dry_run=dry_run, items=items)


async def _end(node: Node, known: Known, status: str) -> None:
    set_id = known.record.id
    async with node.locks(f"record {set_id}"):
        present = node.shelf.known[set_id]
        if present.record.status in ("deleted", status):
            return
        await book.keep(node, book.revise(node, present, status=status))
    faults.point(DELETE_KEPT)


async def _tell_all(node: Node, set_id: str) -> list[wire.DeleteItem]:
    signed = msgspec.to_builtins(node.shelf.known[set_id].aged(node.now()))

    async def tell(entry: HolderEntry) -> wire.DeleteItem:
        record = entry.node.record
        if not entry.node.alive:
            return _other_item(entry)
        try:
            await node.link.call(record.id, "set.learn", {"record": signed}, PATIENCE)
        except CachedError as error:
            return wire.DeleteItem(
                node=record.name, action="pending", bytes=entry.holding.bytes_present, reason=error.message
            )
        return wire.DeleteItem(node=record.name, action="deleted", bytes=entry.holding.bytes_present)

    return list(await asyncio.gather(*(tell(entry) for entry in _others(node, set_id))))


def _others(node: Node, set_id: str) -> Sequence[HolderEntry]:
    return [entry for entry in node.holders(set_id) if entry.node.record.id != node.id]


def _own_item(node: Node, row: ReplicaRow) -> wire.DeleteItem:
    pinned = node.pins.pinned(row.content)
    return wire.DeleteItem(
        node=node.directory.name,
        action="deleted",
        bytes=row.bytes,
        reason="its space returns when the last reader has closed it" if pinned else "",
    )


def _other_item(entry: HolderEntry) -> wire.DeleteItem:
    alive = entry.node.alive
    return wire.DeleteItem(
        node=entry.node.record.name,
        action="deleted" if alive else "pending",
        bytes=entry.holding.bytes_present,
        reason="" if alive else "the node does not answer; it deletes its copy when it returns",
    )

"""Scopes: the end of what a batch run left behind: sets, copies of objects, and what it wrote to Cloud Storage.

Every node knows what was written through it. The node that ends a scope asks the others for what they know,
deletes it in Cloud Storage as the user, and tells them what is done. A node that is away keeps what it knows:
ending the scope once more, when it is back, finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from cached import wire
from cached.addresses import Address
from cached.catalog.rows import ScopedRow
from cached.errors import CachedError, NotFound, OriginChanged, UsageError
from cached.node import persist, revise, unkeep, views
from cached.node.caller import Caller
from cached.node.node import Node
from cached.objects import clear as clearing
from cached.objects.neighbours import Clear, understood
from cached.origin.values import Pinned
from cached.sets.names import SetRef, check_scope
from cached.sets.set import SetRecord

#: The calls on the link between nodes.
SCOPED: Final = "object.scoped"
SETTLED: Final = "object.settled"
#: Metadata of an object in Cloud Storage: the user and the scope that it was written for.
MARK: Final = "cached-scope"
#: Seconds that another node gets to answer.
_PATIENCE: Final = 10.0
#: Objects deleted at the same time.
_AT_ONCE: Final = 16


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.scoped`: whose scope."""

    user: str
    scope: str


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.settled`: objects of a scope that are gone from the origin."""

    user: str
    scope: str
    objects: list[tuple[str, str]]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One object that was written for a scope; generation 0: it was to be written, and nobody knows whether it was."""

    bucket: str
    name: str
    generation: int
    bytes: int


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to `object.scoped`."""

    items: list[Written] = []


async def expect(node: Node, user: str, scope: str, address: Address) -> bool:
    """Write down that an object is about to be written for a scope, so that a crash does not make it forgotten.

    Return False when it was written for it before.
    """
    if any(
        (row.bucket, row.name) == (address.bucket, address.name) for row in await _rows(node, user, scope)
    ):
        return False
    await _note(node, user, scope, Written(bucket=address.bucket, name=address.name, generation=0, bytes=0))
    return True


async def written(node: Node, user: str, scope: str, pinned: Pinned) -> None:
    """Write down what was written for a scope."""
    what = Written(bucket=pinned.bucket, name=pinned.name, generation=pinned.generation, bytes=pinned.size)
    await _note(node, user, scope, what)


async def known(node: Node, user: str, scope: str) -> list[Written]:
    """Return what this node knows to be written for a scope."""
    return [
        Written(bucket=row.bucket, name=row.name, generation=row.generation, bytes=row.bytes)
        for row in await _rows(node, user, scope)
    ]


async def settle(node: Node, user: str, scope: str, objects: Iterable[tuple[str, str]]) -> None:
    """Forget objects of a scope that are gone."""
    gone = list(objects)

    def forget(tx: Any) -> None:
        for bucket, name in gone:
            tx.delete_scoped(user, scope, bucket, name)

    if gone:
        await node.catalog.write(forget)


async def end(
    node: Node, caller: Caller, scope: str, delete_origin: bool, token: str, dry_run: bool
) -> wire.ScopeReply:
    """End a scope of the caller: its sets everywhere, its copies on all nodes, and if wanted its objects in the origin.

    Objects are deleted as the user, what its sets put there with the node's account (`unkeep`), and both only in the
    generation that was written: what was overwritten since stays. What could not be removed is in the answer with the
    reason, and is found again when the scope is ended once more.
    """
    check_scope(scope)
    if not scope:
        raise UsageError("a scope has a name")
    sets = _sets(node, caller, scope)
    items = await _end_sets(node, caller, sets, dry_run)
    if delete_origin:
        items += await unkeep.unkeep(node, caller, scope, sets, dry_run)
    origin_items = await _end_origin(node, caller, scope, token, dry_run) if delete_origin else []
    items += await _end_copies(node, caller, scope, dry_run)
    items += origin_items
    done = [item for item in items if not item.reason]
    return wire.ScopeReply(
        scope=scope,
        dry_run=dry_run,
        sets=sum(item.kind == "set" for item in done),
        objects=sum(int(item.name) for item in done if item.kind == "object"),
        origin_objects=sum(item.kind == "origin" for item in done),
        bytes=sum(item.bytes for item in done),
        items=items,
    )


def _sets(node: Node, caller: Caller, scope: str) -> list[SetRecord]:
    """Return the caller's sets of a scope; those that are deleted may still have something in the origin."""
    records = [one.record for one in node.shelf.known.values()]
    return [record for record in records if record.scope == scope and record.owner == caller.user]


async def _end_sets(
    node: Node, caller: Caller, sets: Iterable[SetRecord], dry_run: bool
) -> list[wire.ScopeItem]:
    items = []
    for record in sets:
        if record.status == "deleted":
            continue
        reason = ""
        try:
            await revise.delete(node, caller, SetRef(id_prefix=record.id), True, dry_run)
            if not dry_run:
                await persist.stop(node, record.id)
        except CachedError as error:
            reason = error.message
        items.append(
            wire.ScopeItem(kind="set", name=record.name, bytes=record.bytes, action="delete", reason=reason)
        )
    return items


async def _end_copies(node: Node, caller: Caller, scope: str, dry_run: bool) -> list[wire.ScopeItem]:
    wish = Clear(user=caller.user, scope=scope, dry_run=dry_run)
    done = await clearing.clear_everywhere(node.objects, wish)
    names = views.node_names(node, done)
    away = [
        wire.ScopeItem(kind="object", name="0", node=name, action="clear", reason=why)
        for name, why in views.nodes_away(node).items()
    ]
    return away + [
        wire.ScopeItem(kind="object", name="0", node=names[who], action="clear", reason=one.message)
        if isinstance(one, CachedError)
        else wire.ScopeItem(
            kind="object", name=str(one.entries), node=names[who], bytes=one.bytes, action="clear"
        )
        for who, one in done.items()
    ]


async def _end_origin(
    node: Node, caller: Caller, scope: str, token: str, dry_run: bool
) -> list[wire.ScopeItem]:
    found: dict[tuple[str, str], Written] = {}
    asked = Scope(user=caller.user, scope=scope)
    answers = await node.objects.neighbours.tell(SCOPED, asked, _PATIENCE, caller.user)
    names = views.node_names(node, answers)
    items = [
        wire.ScopeItem(kind="origin", name="", node=names[who], action="ask", reason=answer.message)
        for who, answer in answers.items()
        if isinstance(answer, CachedError)
    ]
    lists = [await known(node, caller.user, scope)]
    lists += [
        understood(answer, _Known).items for answer in answers.values() if not isinstance(answer, CachedError)
    ]
    for one in (one for each in lists for one in each):
        older = found.get((one.bucket, one.name))
        if older is None or one.generation > older.generation:
            found[one.bucket, one.name] = one
    gate, marked = asyncio.Semaphore(_AT_ONCE), mark(caller.user, scope)[MARK]
    ended = await asyncio.gather(
        *(_delete(node, one, marked, token, dry_run, gate) for one in found.values())
    )
    if not dry_run:
        gone = [
            (one.bucket, one.name) for one, item in zip(found.values(), ended, strict=True) if not item.reason
        ]
        await settle(node, caller.user, scope, gone)
        await node.objects.neighbours.tell(
            SETTLED, Settled(user=caller.user, scope=scope, objects=gone), _PATIENCE, caller.user
        )
    return items + ended


async def _delete(
    node: Node, one: Written, marked: str, token: str, dry_run: bool, gate: asyncio.Semaphore
) -> wire.ScopeItem:
    address, reason = Address(one.bucket, one.name, one.generation or None), ""
    if not one.generation:
        reason = "whether it was written is not known: delete it by hand if it is yours"
    else:
        try:
            async with gate:
                reason = await _delete_marked(node, address, marked, token, dry_run)
        except (NotFound, OriginChanged):
            pass  # gone, or overwritten since: nothing of the scope is there
        except CachedError as error:
            reason = error.message
    return wire.ScopeItem(kind="origin", name=str(address), bytes=one.bytes, action="delete", reason=reason)


async def _delete_marked(node: Node, address: Address, marked: str, token: str, dry_run: bool) -> str:
    """Delete an object that says itself whose scope it was written for; return why not, else nothing.

    What other nodes tell is believed no further than that.
    """
    pinned = await node.objects.origin.stat(address, token=token)
    if pinned.metadata.get(MARK) != marked:
        return "it does not say that it was written for this scope: delete it by hand if it is yours"
    if not dry_run:
        await node.objects.origin.delete(address, token=token)
    return ""


def mark(user: str, scope: str) -> dict[str, str]:
    """Return the metadata by which an object says for whose scope it was written."""
    return {MARK: f"{user} {scope}"}


async def _rows(node: Node, user: str, scope: str) -> list[ScopedRow]:
    return await node.catalog.read(lambda tx: tx.scoped(user, scope))


async def _note(node: Node, user: str, scope: str, what: Written) -> None:
    row = ScopedRow(
        owner=user,
        scope=scope,
        bucket=what.bucket,
        name=what.name,
        generation=what.generation,
        bytes=what.bytes,
    )
    await node.catalog.write(lambda tx: tx.put_scoped(row))

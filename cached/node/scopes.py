"""Scopes: the end of what a batch run left behind: sets, copies of objects, and what it wrote to Cloud Storage.

Every node knows what was to be written through it, from before the first byte. The node that ends a scope asks the
others for what they know, looks in Cloud Storage what is there now, as the user, and deletes what says of itself that
it was written for this scope: whether that was heard of, or which write was noted last, makes no difference. Then it
tells the others what is done. A node that is away keeps what it knows: ending the scope once more, when it is back,
finds it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from cached import wire
from cached.addresses import Address, bucket_name, object_name
from cached.catalog.rows import ScopedRow
from cached.catalog.tx import Tx
from cached.errors import CachedError, Forbidden, NotFound, OriginChanged, SourceChanged, UsageError
from cached.node import persist, revise, unkeep, views
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.parallel import each
from cached.node.writing import Where
from cached.objects import clear as clearing
from cached.objects.neighbours import Clear, understood
from cached.origin.origin import PERHAPS_STORED
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
#: Objects told of in one message, at most; and such messages of one node. What is beyond is found the next time.
PAGE: Final = 10_000
_PAGES: Final = 100
#: After these Cloud Storage has nothing of what was to be written, unless they say otherwise.
_REFUSALS: Final = (Forbidden, NotFound, UsageError, OriginChanged, SourceChanged)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.scoped`: whose scope."""

    user: str
    scope: str
    #: Bucket and name that the page wanted comes after.
    after: tuple[str, str] = ("", "")


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `object.settled`: objects of a scope that are gone from the origin."""

    user: str
    scope: str
    objects: list[tuple[str, str]]
    #: Which generation of each was known, in the same order: what is newer is not gone. Empty: any.
    generations: list[int] = []


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One object that was written for a scope; generation 0: it was to be written, and nobody has heard that it was."""

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
    row = _row(user, scope, Written(bucket=address.bucket, name=address.name, generation=0, bytes=0))
    return await node.catalog.write(partial(_expect, row))


async def written(node: Node, user: str, scope: str, pinned: Pinned) -> None:
    """Write down what was written for a scope."""
    what = Written(bucket=pinned.bucket, name=pinned.name, generation=pinned.generation, bytes=pinned.size)
    await node.catalog.write(lambda tx: tx.put_scoped(_row(user, scope, what)))


async def known(node: Node, user: str, scope: str, after: tuple[str, str] = ("", "")) -> list[Written]:
    """Return what this node knows to be written for a scope: the next page, in order of buckets and names."""
    rows = await node.catalog.read(lambda tx: tx.scoped(user, scope, after, PAGE))
    return [
        Written(bucket=row.bucket, name=row.name, generation=row.generation, bytes=row.bytes) for row in rows
    ]


async def settle(
    node: Node, user: str, scope: str, objects: Iterable[tuple[str, str]], generations: Iterable[int] = ()
) -> None:
    """Forget objects of a scope that are gone, but for those being written, and those newer than what is gone."""
    gone = {Where(user, scope, *where): None for where in objects}
    known = dict(zip(gone, generations, strict=False))

    def forget(tx: Tx) -> None:
        for where in gone:
            if not node.writing.of(where):
                tx.delete_scoped(*where, until=known.get(where))

    if gone:
        await node.catalog.write(forget)


@contextlib.asynccontextmanager
async def noted(node: Node, user: str, scope: str, address: Address) -> AsyncIterator[None]:
    """Write down that an object is written for a scope, before it begins; forget it if Cloud Storage took nothing."""
    where = Where(user, scope, address.bucket, address.name)
    with node.writing.begun(where) as puts:
        puts.waiting += 1
        refused = False
        try:
            new = await expect(node, user, scope, address)
            puts.new |= new
            yield
        except _REFUSALS as error:
            refused = not error.details.get(PERHAPS_STORED)
            raise
        finally:
            puts.waiting -= 1
            puts.refused &= refused
            if puts.to_forget:
                await node.catalog.write(lambda tx: tx.delete_scoped(*where) if puts.to_forget else None)


async def end(
    node: Node, caller: Caller, scope: str, delete_origin: bool, token: str, dry_run: bool
) -> wire.ScopeReply:
    """End a scope of the caller: its sets everywhere, its copies on all nodes, and if wanted its objects in the origin.

    Objects are deleted as the user, what its sets put there with the node's account (`unkeep`), and both only if they
    say that they were written for this scope: what others put in their place stays. What could not be removed is in the
    answer with the reason, and is found again when the scope is ended once more.
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
    found, items = await _told(node, Scope(user=caller.user, scope=scope))
    ended: dict[tuple[str, str], wire.ScopeItem | None] = {}
    marked = mark(caller.user, scope)[MARK]

    async def delete(one: Written) -> None:
        ended[one.bucket, one.name] = await _delete(node, one, marked, token, dry_run)

    await each(found.values(), delete, width=_AT_ONCE)
    if not dry_run:
        gone = [where for where in found if (item := ended[where]) is None or not item.reason]
        await _settle_everywhere(node, caller.user, scope, [found[where] for where in gone])
    return items + [item for where in found if (item := ended[where]) is not None]


async def _told(node: Node, asked: Scope) -> tuple[dict[tuple[str, str], Written], list[wire.ScopeItem]]:
    """Return what all nodes know to be written for a scope, and which of them did not say."""
    found: dict[tuple[str, str], Written] = {}
    items: list[wire.ScopeItem] = []
    neighbours = node.objects.neighbours
    answers: dict[str, Any] = await neighbours.tell(SCOPED, asked, _PATIENCE, asked.user)
    names = views.node_names(node, answers)
    answers[node.id] = {"items": msgspec.to_builtins(await known(node, asked.user, asked.scope))}
    for who, answer in answers.items():
        try:
            page = _page(answer)
            for _ in range(_PAGES):
                for one in page:
                    older = found.get((one.bucket, one.name))
                    if older is None or one.generation > older.generation:
                        found[one.bucket, one.name] = one
                page = await _page_after(node, who, asked, page)
        except CachedError as error:
            items.append(
                wire.ScopeItem(kind="origin", name="", node=names[who], action="ask", reason=error.message)
            )
    return found, items


async def _page_after(node: Node, who: str, asked: Scope, page: list[Written]) -> list[Written]:
    """Return what a node tells after a page; nothing when that was the last one, or it does not go on."""
    if len(page) < PAGE:
        return []
    last = page[-1].bucket, page[-1].name
    if who == node.id:
        return await known(node, asked.user, asked.scope, last)
    asked = msgspec.structs.replace(asked, after=last)
    following = _page(await node.objects.neighbours.call(who, SCOPED, asked, _PATIENCE))
    return following if all((one.bucket, one.name) > last for one in following) else []


def _page(answer: Any) -> list[Written]:
    if isinstance(answer, CachedError):
        raise answer
    items = understood(answer, _Known).items
    for one in items:
        bucket_name(one.bucket)
        object_name(one.name)
        if not 0 <= one.generation < 2**63 or one.bytes < 0:
            raise UsageError(f"{one.generation} is no generation")
    return items


async def _settle_everywhere(node: Node, user: str, scope: str, gone: list[Written]) -> None:
    for start in range(0, len(gone), PAGE):
        some = gone[start : start + PAGE]
        objects, generations = [(one.bucket, one.name) for one in some], [one.generation for one in some]
        await settle(node, user, scope, objects, generations)
        done = Settled(user=user, scope=scope, objects=objects, generations=generations)
        await node.objects.neighbours.tell(SETTLED, done, _PATIENCE, user)


async def _delete(node: Node, one: Written, marked: str, token: str, dry_run: bool) -> wire.ScopeItem | None:
    """Delete an object, and say what was done; None: nothing of the scope is there any more."""
    address, size = Address(one.bucket, one.name, one.generation or None), one.bytes
    try:
        pinned = await node.objects.origin.stat(Address(one.bucket, one.name), token=token)
        address, size = pinned.address, pinned.size
        reason = ""
        if pinned.metadata.get(MARK) != marked:
            # What other nodes tell is believed no further than the object itself says.
            if pinned.generation != one.generation:
                return None
            reason = "it does not say that it was written for this scope: delete it by hand if it is yours"
        elif not dry_run:
            await node.objects.origin.delete(address, token=token)
    except (NotFound, OriginChanged):
        return None
    except CachedError as error:
        reason = error.message
    return wire.ScopeItem(kind="origin", name=str(address), bytes=size, action="delete", reason=reason)


def mark(user: str, scope: str) -> dict[str, str]:
    """Return the metadata by which an object says for whose scope it was written."""
    return {MARK: f"{user} {scope}"}


def _row(user: str, scope: str, what: Written) -> ScopedRow:
    return ScopedRow(
        owner=user,
        scope=scope,
        bucket=what.bucket,
        name=what.name,
        generation=what.generation,
        bytes=what.bytes,
    )


def _expect(row: ScopedRow, tx: Tx) -> bool:
    new = not tx.is_scoped(row.owner, row.scope, row.bucket, row.name)
    if new:
        tx.put_scoped(row)
    return new

"""Unkeep: what the sets of a scope put into the origin goes again, and nothing else that lies there.

Each object that is written for a set says for whose scope it was (`mark`). What says so is deleted with the node's
account, in the generation that was looked at; the document goes first, so that what is left of a set is never taken
for one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cached import wire
from cached.addresses import Prefix, parse_prefix
from cached.errors import CachedError
from cached.node import origins
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.parallel import each
from cached.origin import document, naming
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets.set import SetRecord

#: Metadata of an object in Cloud Storage: the user and the scope of the set that it was written for.
SET_MARK: Final = "cached-set-scope"
#: Objects deleted at the same time.
_AT_ONCE: Final = 16


def mark(owner: str, scope: str) -> dict[str, str]:
    """Return the metadata by which an object says for which scope's set it was written; nothing without a scope."""
    return {SET_MARK: f"{owner} {scope}"} if scope else {}


async def unkeep(
    node: Node, caller: Caller, scope: str, records: Iterable[SetRecord], dry_run: bool
) -> list[wire.ScopeItem]:
    """Delete what was written for sets of the caller's scope; return each object, and what was left and why."""
    items: list[wire.ScopeItem] = []
    for origin in sorted({record.origin for record in records if record.origin}):
        try:
            items += await _prefix(node, caller, scope, origin, dry_run)
        except CachedError as error:
            items.append(_kept(origin, error.message))
    return items


async def _prefix(node: Node, caller: Caller, scope: str, origin: str, dry_run: bool) -> list[wire.ScopeItem]:
    prefix = origins.named(node, caller, origin)
    base, marked = naming.directory(prefix.name), mark(caller.user, scope)[SET_MARK]
    used = _bases_of_others(node, caller.user, scope, prefix)
    ours: list[Pinned] = []
    foreign: list[Pinned] = []
    needed: list[Pinned] = []
    async for one in origins.port(node).list(prefix.bucket, base, token=NODE_ACCOUNT):
        mine = one.metadata.get(SET_MARK) == marked
        (foreign if not mine else needed if _below(one.name, used) else ours).append(one)
    ours.sort(key=lambda one: one.name != document.name(base))
    items = await _delete(node, ours, dry_run)
    if needed:
        items.append(_kept(origin, f"another set is kept with {_some(needed)}"))
    if foreign:
        items.append(_kept(origin, f"{_some(foreign)}: not written for a set of this scope"))
    return items


async def _delete(node: Node, ours: list[Pinned], dry_run: bool) -> list[wire.ScopeItem]:
    """Delete objects, the first one before all others. One that was replaced meanwhile stays."""
    reasons: dict[str, str] = {}
    origin = origins.port(node)

    async def delete(one: Pinned) -> None:
        try:
            await origin.delete(one.address, token=NODE_ACCOUNT)
        except CachedError as error:
            reasons[one.name] = error.message

    if not dry_run and ours:
        await delete(ours[0])
        if ours[0].name not in reasons:
            await each(ours[1:], delete, width=_AT_ONCE)
        else:
            reasons |= {
                one.name: f"the first object could not be deleted: {reasons[ours[0].name]}"
                for one in ours[1:]
            }
    return [
        wire.ScopeItem(
            kind="origin",
            name=str(one.address),
            bytes=one.size,
            action="delete",
            reason=reasons.get(one.name, ""),
        )
        for one in ours
    ]


def _bases_of_others(node: Node, owner: str, scope: str, prefix: Prefix) -> list[str]:
    """Return below which names sets that do not end with the scope are kept in the same bucket."""
    lasting = [
        parse_prefix(known.record.origin)
        for known in node.shelf.known.values()
        if known.record.origin
        and known.record.status == "live"
        and (known.record.owner, known.record.scope) != (owner, scope)
    ]
    return [naming.directory(one.name) for one in lasting if one.bucket == prefix.bucket]


def _below(name: str, bases: Collection[str]) -> bool:
    return any(name.startswith(base) for base in bases)


def _some(objects: list[Pinned]) -> str:
    first = f"gs://{objects[0].bucket}/{objects[0].name}"
    return first if len(objects) == 1 else f"{first} and {len(objects) - 1} more"


def _kept(origin: str, reason: str) -> wire.ScopeItem:
    return wire.ScopeItem(kind="origin", name=origin, action="keep", reason=reason)

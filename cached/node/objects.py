"""Objects of Cloud Storage as local users open, write, list and clear them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

import msgspec

from cached import wire
from cached.addresses import Address, Prefix
from cached.errors import CachedError, Forbidden, UsageError
from cached.node import scopes, views
from cached.node.caller import Caller
from cached.node.node import Node
from cached.objects import clear as clearing
from cached.objects import read, through, write
from cached.objects.cache import Keep, ObjectCache, Pace, Reader
from cached.objects.key import ObjectKey
from cached.objects.neighbours import Clear
from cached.objects.read import OpenedCopy
from cached.origin.values import Pinned
from cached.sets.names import check_scope

Report = Callable[[wire.Progress], None]


class OpenedObject(msgspec.Struct, frozen=True, kw_only=True):
    """An open copy for a local user; see `cached.api.verbs`."""

    view: wire.ObjectView
    fd: int
    tier: wire.ObjectTier
    pin: str
    #: For what `open_now` returns: counts and charges it.
    count: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class PutOptions:
    """How an object is to be written."""

    #: The generation that must be there at present; 0: none; None: whichever.
    if_generation: int | None = None
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""


def open_now(node: Node, caller: Caller, address: Address, token: str, scope: str) -> OpenedObject | None:
    """Open a copy that is here, for a user who has just been allowed it; None: Cloud Storage must be asked."""
    cache = node.objects
    reader = _reader(caller, token, scope)
    copy = read.open_now(cache, reader, address)
    if copy is None:
        return None
    entry = copy.entry
    return OpenedObject(
        view=_view_of(entry.key, entry.size, entry.crc32c),
        fd=copy.fd,
        tier=copy.tier,
        pin=cache.pin(entry, caller.user),
        count=partial(read.count, cache, reader, copy),
    )


async def open_object(
    node: Node,
    caller: Caller,
    address: Address,
    *,
    token: str,
    scope: str = "",
    keep: Keep = "auto",
    progress: Report | None = None,
) -> OpenedObject:
    """Open an object as Cloud Storage has it now, for whom Cloud Storage lets read it."""
    cache = node.objects
    with node.jobs.wait(str(address)):
        opened = await read.open_object(
            cache, _reader(caller, token, scope), address, keep=keep, report=_reporting(progress)
        )
    return _handed(cache, caller, opened)


def release(node: Node, pin: str) -> None:
    """Let a copy go when room is wanted; once for each open."""
    node.objects.unpin(pin)


async def stat(node: Node, caller: Caller, address: Address, token: str) -> wire.ObjectView:
    """Describe an object as Cloud Storage has it now."""
    return view(await read.stat(node.objects, _reader(caller, token), address))


async def list_objects(
    node: Node, caller: Caller, prefix: Prefix, token: str, delimiter: str
) -> AsyncIterator[wire.ObjectList]:
    """List the objects below a prefix, as the user; with a delimiter those beyond it by how they begin.

    Page by page, of which the node holds one: a bucket may have more objects than memory.
    """
    pages = node.objects.origin.pages(prefix.bucket, prefix.name, token=token, delimiter=delimiter)
    async for page in pages:
        node.objects.charged(caller.user, "", {}, 1, 1)
        yield wire.ObjectList(items=[view(pinned) for pinned in page.items], prefixes=list(page.prefixes))


def stream(
    node: Node, caller: Caller, what: wire.ObjectView, start: int, stop: int, token: str
) -> AsyncIterator[bytes]:
    """Yield a range of an object that no tier could hold, from Cloud Storage."""
    return through.read_through(node.objects, _reader(caller, token), _pinned(what), start, stop)


async def put(
    node: Node,
    caller: Caller,
    address: Address,
    fd: int,
    token: str,
    wish: PutOptions,
    progress: Report | None = None,
) -> wire.ObjectView:
    """Write an object; returns when Cloud Storage has it and no node reads the old one any more.

    What is written for a scope is written down first, so that the scope's end finds it whatever happens.
    """
    reader, metadata = _reader(caller, token, wish.scope), dict(wish.metadata)
    _check_headers(wish.content_type, *metadata, *metadata.values())
    if wish.scope:
        metadata |= scopes.mark(caller.user, wish.scope)
    how = write.Wish(if_generation=wish.if_generation, content_type=wish.content_type, metadata=metadata)
    async with contextlib.AsyncExitStack() as scoped:
        if wish.scope:
            await scoped.enter_async_context(scopes.noted(node, caller.user, wish.scope, address))
        pinned = await write.put(node.objects, reader, address, fd, how, _reporting(progress))
        if wish.scope:
            await scopes.written(node, caller.user, wish.scope, pinned)
    return view(pinned)


async def clear(node: Node, caller: Caller, prefix: Prefix | None, user: str | None) -> wire.ClearReply:
    """Empty a user's own part of the cache on all nodes; another user's only for administrators of this node."""
    if user not in (None, caller.user) and not caller.admin:
        raise Forbidden(
            f"only {user} and administrators of this node may empty the cache of {user}",
            hint="leave --user out to empty your own",
        )
    wish = Clear(
        user=user or caller.user,
        bucket=prefix.bucket if prefix else "",
        prefix=prefix.name if prefix else "",
    )
    done = await clearing.clear_everywhere(node.objects, wish)
    names = views.node_names(node, done)
    items = [
        wire.ClearItem(node=names[who], reason=one.message)
        if isinstance(one, CachedError)
        else wire.ClearItem(node=names[who], entries=one.entries, bytes=one.bytes)
        for who, one in done.items()
    ]
    items += [wire.ClearItem(node=name, reason=why) for name, why in views.nodes_away(node).items()]
    return wire.ClearReply(
        entries=sum(item.entries for item in items), bytes=sum(item.bytes for item in items), items=items
    )


def _check_headers(*values: str) -> None:
    """Raise `UsageError` for what cannot travel in a header (RFC 9110, section 5.5)."""
    for value in values:
        if not value.isprintable():
            raise UsageError(
                f"{value!r} cannot be said of an object", hint="printable characters, on one line"
            )


def view(pinned: Pinned) -> wire.ObjectView:
    """Return what users see of an object."""
    return wire.ObjectView(
        bucket=pinned.bucket,
        name=pinned.name,
        generation=pinned.generation,
        size=pinned.size,
        crc32c=f"{pinned.crc32c:08x}",
        content_type=pinned.content_type,
        updated=pinned.updated,
        address=str(pinned.address),
        metadata=pinned.metadata,
    )


@lru_cache(maxsize=4096)
def _view_of(key: ObjectKey, size: int, crc32c: int) -> wire.ObjectView:
    """Return what users see of a copy about which Cloud Storage was not asked."""
    return view(Pinned(key.bucket, key.name, key.generation, size, crc32c))


def _pinned(what: wire.ObjectView) -> Pinned:
    return Pinned(what.bucket, what.name, what.generation, what.size, int(what.crc32c, 16))


def _reader(caller: Caller, token: str, scope: str = "") -> Reader:
    return Reader(user=caller.user, token=token, scope=check_scope(scope))


def _handed(cache: ObjectCache, caller: Caller, opened: OpenedCopy) -> OpenedObject:
    pin = "" if opened.entry is None else cache.pin(opened.entry, caller.user)
    return OpenedObject(view=view(opened.pinned), fd=opened.fd, tier=opened.tier, pin=pin, count=lambda: None)


def _reporting(progress: Report | None) -> Callable[[Pace], None] | None:
    if progress is None:
        return None

    def report(pace: Pace) -> None:
        progress(wire.Progress(bytes_present=pace.present, bytes_wanted=pace.wanted, state="TRANSFERRING"))

    return report

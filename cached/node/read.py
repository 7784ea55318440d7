"""Read: resolve the name, check the right, pin, and hand out a read-only descriptor. The bytes are never copied.

`open_now` is the hot path: everything it needs is in memory, it awaits nothing. `open_path` fetches a replica first
when this node has none.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from cached import wire
from cached.catalog.rows import ReplicaRow
from cached.errors import CachedError, NotFound
from cached.leases.pin import Pin, Process
from cached.node import damage, metadata, views, watching
from cached.node import fetch as fetching
from cached.node.access import check_read, resolve
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.shelf import Known
from cached.sets.leaves import decode_mtimes
from cached.sets.manifest import Entry
from cached.sets.names import SetRef
from cached.sets.set import Tier
from cached.units import rfc3339


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """An open file or directory of a set, and the pin that keeps it here. The receiver closes `fd`."""

    set: wire.SetHead
    kind: Literal["file", "dir"]
    size: int
    executable: bool
    fd: int
    pin: Pin
    #: Finds the merkle root when somebody asks for it.
    look_up: Callable[[], str]

    @property
    def root(self) -> str:
        """Merkle root of a file in hex; empty for an empty file and for a directory."""
        return self.look_up()


def open_now(node: Node, caller: Caller, ref: SetRef, path: str) -> Opened | None:
    """Open what is here; None when this node has no replica yet. Raises `NotFound`, `Forbidden` or `AmbiguousName`."""
    process = Process(caller.pid, caller.start_time)

    def kept(known: Known) -> bool:
        return node.pins.holds(known.record.id, known.record.content, process)

    known = node.decisions.readable(node.shelf, caller, ref, kept)
    row = node.shelf.replicas.get(known.record.id)
    if row is None or row.state == "TRANSFERRING":
        return None
    if row.state == "GOING" and not kept(known):
        raise NotFound(f"{known.record.name} is being deleted here")
    return _open(node, known, row, process, path)


async def open_path(
    node: Node,
    caller: Caller,
    ref: SetRef,
    path: str,
    *,
    fetch: bool,
    progress: Callable[[wire.Progress], None] | None = None,
) -> Opened:
    """Open a file or directory, bringing the set here first when `fetch`. Raises `NotFound` without a replica."""
    opened = open_now(node, caller, ref, path)
    while opened is None:
        known = resolve(node.shelf, caller, ref)
        if not fetch:
            raise NotFound(
                f"this node has no replica of {known.record.name}",
                hint="leave --no-fetch out to bring it here",
            )
        await fetching.bring(node, known, progress)
        opened = open_now(node, caller, ref, path)
    return opened


def release(node: Node, pin: Pin) -> None:
    """Let go of one open."""
    node.pins.release(pin)


def _open(node: Node, known: Known, row: ReplicaRow, process: Process, path: str) -> Opened:
    pin = Pin(row.set_id, row.content, process)
    node.pins.hold(pin)
    try:
        fd = _descriptor(node, known, row, path)
        try:
            facts = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
    except (OSError, CachedError):
        node.pins.release(pin)
        raise
    node.last_read[row.set_id] = time.monotonic()
    record = known.record
    is_dir = stat.S_ISDIR(facts.st_mode)
    return Opened(
        set=wire.SetHead(id=record.id, name=record.name, owner=record.owner, content=record.content),
        kind="dir" if is_dir else "file",
        size=0 if is_dir else facts.st_size,
        executable=not is_dir and bool(facts.st_mode & 0o111),
        fd=fd,
        pin=pin,
        look_up=lambda: node.manifests.root(node.stores[_tier(node, row)], row.content, path),
    )


def _descriptor(node: Node, known: Known, row: ReplicaRow, path: str) -> int:
    store = node.stores[_tier(node, row)]
    if node.shelf.withheld:
        damage.check(node, known, store, path)
    if not path:
        return store.open_content(row.content)
    return node.roots.open(store, row.content, path)


def _tier(node: Node, row: ReplicaRow) -> Tier:
    """Return the fastest tier that has the bytes, whole."""
    copy = node.shelf.contents.get((row.content, "memory"))
    usable = copy is not None and copy.state == "STABLE" and damage.whole(node, row.content, "memory")
    return "memory" if usable else row.tier


async def list_sets(node: Node, caller: Caller, local: bool) -> list[wire.SetView]:
    """Return the sets that the caller may see; only those with a replica here when `local`."""
    found = views.visible(node, caller)
    if local:
        found = [known for known in found if known.record.id in node.shelf.replicas]
    return [views.set_view(node, known) for known in found]


async def show(node: Node, caller: Caller, ref: SetRef) -> wire.SetView:
    """Return one set; nodes that are receiving it are asked how far they are. Raises `NotFound`, `AmbiguousName`."""
    known = resolve(node.shelf, caller, ref)
    sight = watching.Sight(node, known.record.id)
    await sight.ask(watching.GLANCE)
    return views.set_view(node, node.shelf.known.get(known.record.id, known), sight.told)


async def files(node: Node, caller: Caller, ref: SetRef) -> list[wire.FileView]:
    """Return the entries of a set's manifest, from this node or a holder. Raises `Forbidden` for names not shared."""
    known = resolve(node.shelf, caller, ref)
    check_read(caller, known)
    meta = await metadata.of(node, known)
    return await asyncio.to_thread(_file_views, meta)


def _file_views(meta: metadata.Metadata) -> list[wire.FileView]:
    times = decode_mtimes(meta.mtimes, meta.manifest) if meta.mtimes is not None else None
    return [
        _file_view(entry, times[index] if times else None)
        for index, entry in enumerate(meta.manifest.entries)
    ]


def _file_view(entry: Entry, mtime_ns: int | None) -> wire.FileView:
    return wire.FileView(
        path=entry.path,
        kind=entry.kind,
        size=entry.size,
        executable=entry.executable,
        target=entry.target or None,
        mtime=None if mtime_ns is None else rfc3339(mtime_ns / 1e9),
        mtime_ns=mtime_ns,
        root=entry.root.hex() or None,
    )

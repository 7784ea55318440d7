"""Gather: the objects below a prefix become a set: each pinned to its generation, read in parallel, verified.

list -> paths -> lease and space -> ranged reads into staged files -> hash -> what every create does from there on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime

from cached import faults, wire
from cached.addresses import Address, Prefix
from cached.critical import to_the_end
from cached.errors import BadName, NotFound, UsageError
from cached.node import create, ledger, origins
from cached.node.caller import Caller
from cached.node.commit import Order
from cached.node.node import Node
from cached.node.parallel import each
from cached.objects.gather import requests
from cached.origin import naming, places
from cached.origin.naming import Plan
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets.manifest import Manifest
from cached.storage import files
from cached.storage.ingest import Ingest

GATHER_LISTED = faults.declare("gather.listed")
GATHER_READ = faults.declare("gather.read")

#: Metadata under which other tools keep a file's permission bits.
_MODE = "goog-reserved-posix-mode"


async def begin(node: Node, caller: Caller, name: str, options: wire.CreateOptions) -> Gathering:
    """List what `options.source` names, promise a lease and reserve the space; `Gathering.draw` brings the bytes.

    Raises what `create.begin` raises, `Forbidden` for a bucket that the caller may not name, `NotFound`, `BadName` for
    an object whose name cannot be a path, `OriginUnavailable`. Nothing is left behind then.
    """
    prefix = origins.named(node, caller, options.source)
    plan = await plan_of(node, prefix)
    faults.point(GATHER_LISTED)
    creation = await create.begin_as(
        Gathering, node, caller, name, options, plan.total_bytes, len(plan.files)
    )
    creation.plan = plan
    return creation


async def plan_of(node: Node, prefix: Prefix) -> Plan:
    """Return what lies below a prefix; one that does not end with a slash may be a single object as well."""
    origin, base = origins.port(node), naming.directory(prefix.name)
    listed = [pinned async for pinned in origin.list(prefix.bucket, base, token=NODE_ACCOUNT)]
    one = None
    if base != prefix.name:
        try:
            one = await origin.stat(Address(prefix.bucket, prefix.name), token=NODE_ACCOUNT)
        except NotFound:
            if not listed:
                raise
    if one is not None and listed:
        raise BadName(
            f"{prefix} is an object, and others lie below {prefix}/",
            hint=f"write {prefix}/ for those below it",
        )
    if one is not None:
        return naming.single(one)
    if not listed:
        raise NotFound(f"there are no objects below {prefix}", hint="gcloud storage ls shows what there is")
    return naming.below(listed, prefix.bucket, base)


class Gathering(create.Creation):
    """A set on its way in from the origin."""

    plan: Plan
    _whole = 0

    def __init__(self, node: Node, order: Order, total_bytes: int, total_files: int) -> None:
        super().__init__(node, order, total_bytes, total_files)
        #: Bytes in place of the files that are just being read.
        self._coming: dict[str, int] = {}

    @property
    def bytes_done(self) -> int:
        """Bytes read so far."""
        return self._whole + sum(tuple(self._coming.values()))

    async def add(self, entries: Sequence[wire.NewEntry], fds: Sequence[int]) -> None:
        """Refuse: the files come from the origin."""
        for fd in fds:
            os.close(fd)
        raise UsageError("this set is made of objects: nothing can be added to it")

    async def draw(self) -> None:
        """Read all objects, a few at a time. Raises `OriginChanged` when one was replaced meanwhile."""
        ingest, plan = self.begin_work(), self.plan
        try:
            await self.make_room_for(await asyncio.to_thread(_directories, plan))
            await to_the_end(asyncio.to_thread(_add_directories, ingest, plan))
            await each(
                plan.files.items(),
                lambda item: self._take(ingest, *item),
                width=self.node.config.origin.threads,
            )
            self.node.counters.add("gather.objects", len(plan.files))
        finally:
            self.end_work()

    async def _take(self, ingest: Ingest, path: str, pinned: Pinned) -> None:
        origin = origins.port(self.node)
        fd = await to_the_end(asyncio.to_thread(ingest.open_file, path, pinned.size), os.close)
        try:
            with files.translated(path):
                await origin.fetch(
                    pinned, fd, token=NODE_ACCOUNT, progress=lambda count: self._note(path, count)
                )
            await self._hash(ingest, path, pinned, fd)
            self._coming.pop(path, None)
            self._whole += pinned.size
            order = self.order
            ledger.spent(self.node, order.owner, order.terms.scope, pinned.size, requests(pinned.size))
        finally:
            os.close(fd)
        faults.point(GATHER_READ)

    async def _hash(self, ingest: Ingest, path: str, pinned: Pinned, fd: int) -> None:
        """Hash in a thread, which uses the descriptor no more when this returns."""
        work = asyncio.get_running_loop().run_in_executor(
            self.node.copiers, ingest.take_file, path, fd, pinned.size, _executable(pinned), _mtime_ns(pinned)
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            ingest.cancel()
            await asyncio.wait({work})
            work.exception()  # looked at, or asyncio logs what the cancellation has made of it
            raise

    def _note(self, path: str, count: int) -> None:
        self._coming[path] = count

    async def complete(self, ingest: Ingest, manifest: Manifest) -> None:
        """Keep where the files lie beside them."""
        if self._whole != self.plan.total_bytes or manifest.file_count != len(self.plan.files):
            raise UsageError("the objects have not been read", hint="send draw before seal")

        def put() -> None:
            ingest.staging.put_places(places.encode(places.of_plan(self.plan, manifest)))

        await asyncio.to_thread(put)


def _directories(plan: Plan) -> int:
    parents = {path[:at] for path in plan.files for at, mark in enumerate(path) if mark == "/"}
    return len(parents | set(plan.directories))


def _add_directories(ingest: Ingest, plan: Plan) -> None:
    for path in plan.directories:
        ingest.add_dir(path)


def _executable(pinned: Pinned) -> bool:
    try:
        return bool(int(pinned.metadata.get(_MODE, "0"), 8) & 0o100)
    except ValueError:
        return False


def _mtime_ns(pinned: Pinned) -> int:
    try:
        return int(datetime.fromisoformat(pinned.updated).timestamp()) * 10**9
    except ValueError:
        return 0

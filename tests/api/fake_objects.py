"""Cloud Storage and the cache before it, in one dictionary, behind the same verbs as the real ones."""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached import wire
from cached.addresses import Address, Prefix
from cached.api.verbs import ObjectVerbs
from cached.errors import Forbidden, NotFound, OriginChanged, OriginUnavailable, SourceChanged
from cached.node.caller import Caller
from cached.node.objects import PutOptions
from cached.origin import waiting


@dataclass(kw_only=True)
class FakeObject:
    data: bytes
    generation: int
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    scope: str = ""


@dataclass(kw_only=True)
class FakeOpenedObject:
    view: wire.ObjectView
    fd: int
    tier: str
    pin: str
    count: Callable[[], None] = lambda: None


class FakeCloud:
    """What the verbs on objects do, as far as a socket can tell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects: dict[tuple[str, str], FakeObject] = {}
        #: Tokens that are let in; None: everybody is.
        self.tokens: set[str] | None = None
        #: Tokens that requests came with, in order.
        self.seen: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        self.pins: Counter[str] = Counter()
        #: Addresses of what was opened without a question, once it was counted.
        self.counted: list[str] = []
        #: Objects that are opened without a question, by name.
        self.fresh: set[str] = set()
        #: Objects that nothing keeps, by name.
        self.through: set[str] = set()
        #: Bytes of such an object after which a stream fails.
        self.breaks_after: int | None = None
        self.streams = 0
        #: A list fails after its first page.
        self.lists_break = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reports = [wire.Progress(bytes_present=n, bytes_wanted=2, state="TRANSFERRING") for n in (1, 2)]
        #: Why an open waits while the gate is shut.
        self.waits_for = ""
        self.cancelled = 0
        self._generations = 1000

    def plant(self, address: str, data: bytes, **facts: Any) -> int:
        bucket, _, name = address.removeprefix("gs://").partition("/")
        self._generations += 1
        self.objects[bucket, name] = FakeObject(data=data, generation=self._generations, **facts)
        return self._generations

    def view(self, bucket: str, name: str) -> wire.ObjectView:
        found = self.objects[bucket, name]
        return wire.ObjectView(
            bucket=bucket,
            name=name,
            generation=found.generation,
            size=len(found.data),
            crc32c=f"{zlib.crc32(found.data):08x}",
            content_type=found.content_type,
            updated="2030-01-01T00:00:00Z",
            address=f"gs://{bucket}/{name}#{found.generation}",
            metadata=found.metadata,
        )

    def _found(self, address: Address, token: str) -> wire.ObjectView:
        self.seen.append(token)
        if self.tokens is not None and token not in self.tokens:
            raise Forbidden(f"{address}: Cloud Storage does not let you read it")
        if (address.bucket, address.name) not in self.objects:
            raise NotFound(f"{address} is not there")
        view = self.view(address.bucket, address.name)
        if address.generation not in (None, view.generation):
            raise OriginChanged(f"{address} is gone")
        return view

    def _opened(self, view: wire.ObjectView) -> FakeOpenedObject:
        if view.name in self.through:
            return FakeOpenedObject(view=view, fd=-1, tier="origin", pin="")
        path = self.root / f"object-{view.generation}"
        if not path.exists():
            path.write_bytes(self.objects[view.bucket, view.name].data)
        pin = f"{view.generation}.{sum(self.pins.values())}.{len(self.calls)}.{len(self.seen)}"
        self.pins[pin] += 1
        return FakeOpenedObject(view=view, fd=os.open(path, os.O_RDONLY | os.O_CLOEXEC), tier="disk", pin=pin)

    def open_now(self, caller: Caller, address: Address, token: str, scope: str) -> FakeOpenedObject | None:
        if address.name == "explode":
            raise RuntimeError("secret detail")
        if address.name not in self.fresh:
            return None
        self.calls.append(("now", str(address), scope))
        opened = self._opened(self._found(address, token))
        opened.count = lambda: self.counted.append(str(address))
        return opened

    async def open(
        self,
        caller: Caller,
        address: Address,
        *,
        token: str,
        scope: str,
        keep: str,
        progress: Callable[[wire.Progress], None] | None,
    ) -> FakeOpenedObject:
        view = self._found(address, token)
        self.calls.append(("open", str(address), scope, keep))
        for report in self.reports if progress else ():
            assert progress is not None
            progress(report)
        waiting.tell(self.waits_for)
        await self.gate.wait()
        return self._opened(view)

    def release(self, pin: str) -> None:
        self.pins[pin] -= 1
        assert self.pins[pin] >= 0

    async def stat(self, caller: Caller, address: Address, token: str) -> wire.ObjectView:
        return self._found(address, token)

    async def list(
        self, caller: Caller, prefix: Prefix, token: str, delimiter: str
    ) -> AsyncIterator[wire.ObjectList]:
        self.seen.append(token)
        if self.tokens is not None and token not in self.tokens:
            raise Forbidden(f"{prefix}: Cloud Storage does not let you list it")
        if prefix.bucket not in {bucket for bucket, _ in self.objects}:
            raise NotFound(f"there is no bucket {prefix.bucket}")
        items, prefixes = [], []
        for bucket, name in sorted(self.objects):
            if not prefix.covers(bucket, name):
                continue
            rest = name.removeprefix(prefix.name)
            if delimiter and delimiter in rest:
                beginning = prefix.name + rest[: rest.index(delimiter) + len(delimiter)]
                if beginning not in prefixes:
                    prefixes.append(beginning)
            else:
                items.append(self.view(bucket, name))
        yield wire.ObjectList(items=items[:1], prefixes=prefixes)
        if self.lists_break:
            raise OriginUnavailable(f"{prefix}: Cloud Storage does not answer")
        yield wire.ObjectList(items=items[1:])

    async def stream(
        self, caller: Caller, view: wire.ObjectView, start: int, stop: int, token: str
    ) -> AsyncIterator[bytes]:
        self._found(Address(view.bucket, view.name, view.generation), token)
        self.calls.append(("stream", start, stop))
        self.streams += 1
        data = self.objects[view.bucket, view.name].data
        try:
            for at in range(start, stop, 100_000):
                if self.breaks_after is not None and at - start >= self.breaks_after:
                    raise OriginChanged("it was replaced")
                await self.gate.wait()
                await asyncio.sleep(0)
                yield data[at : min(stop, at + 100_000)]
        finally:
            self.streams -= 1

    async def put(
        self,
        caller: Caller,
        address: Address,
        fd: int,
        token: str,
        options: PutOptions,
        progress: Callable[[wire.Progress], None] | None,
    ) -> wire.ObjectView:
        self.seen.append(token)
        self.calls.append(("put", str(address), options.scope))
        if self.tokens is not None and token not in self.tokens:
            raise Forbidden(f"{address}: Cloud Storage does not let you write it")
        before = self.objects.get((address.bucket, address.name))
        if options.if_generation not in (None, before.generation if before else 0):
            raise OriginChanged(f"{address} is not of generation {options.if_generation}")
        size = os.fstat(fd).st_size
        for report in self.reports if progress else ():
            assert progress is not None
            progress(report)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        data = os.pread(fd, size + 1, 0)
        if len(data) != size:
            raise SourceChanged(f"{address}: the file changed while it was sent")
        self.plant(
            f"gs://{address.bucket}/{address.name}",
            data,
            content_type=options.content_type,
            metadata=dict(options.metadata),
            scope=options.scope,
        )
        return self.view(address.bucket, address.name)

    def copies(self, caller: Caller, prefix: Prefix | None) -> wire.CopyList:
        self.calls.append(("copies", caller.user, prefix))
        found = self.objects.get(("genomes", "chr1"))
        if found is None:
            return wire.CopyList(items=[])
        copy = wire.CopyView(
            address=f"gs://genomes/chr1#{found.generation}",
            bucket="genomes",
            name="chr1",
            generation=found.generation,
            bytes=len(found.data),
            whole=True,
            tiers=["disk"],
            age_seconds=1.5,
        )
        return wire.CopyList(items=[copy])

    async def clear(self, caller: Caller, prefix: Prefix | None, user: str | None) -> wire.ClearReply:
        self.calls.append(("clear", prefix, user))
        item = wire.ClearItem(node="n1", entries=2, bytes=20)
        away = wire.ClearItem(node="n2", reason="it does not answer")
        return wire.ClearReply(entries=2, bytes=20, items=[item, away])

    async def end_scope(
        self, caller: Caller, scope: str, delete_origin: bool, token: str, dry_run: bool
    ) -> wire.ScopeReply:
        self.seen.append(token)
        self.calls.append(("end", scope, delete_origin, dry_run))
        await self.gate.wait()
        item = wire.ScopeItem(kind="origin", name="gs://b/o", bytes=3, action="deleted")
        return wire.ScopeReply(
            scope=scope,
            dry_run=dry_run,
            sets=0,
            objects=1,
            origin_objects=int(delete_origin),
            bytes=3,
            items=[item],
        )

    def verbs(self) -> ObjectVerbs:
        return ObjectVerbs(**{name: getattr(self, name) for name in ObjectVerbs.__dataclass_fields__})

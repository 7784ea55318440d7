"""`AsyncClient`: the same verbs for programs with an event loop; each call runs in a thread of its own."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from cached import wire
from cached.client.channel import Watcher
from cached.client.client import Client
from cached.client.dumps import Trust
from cached.client.objects import ObjectFile
from cached.client.opened import Opened
from cached.client.spool import ObjectWriter, Source
from cached.client.token import Given

SetViews = list[wire.SetView]
FileViews = list[wire.FileView]
NodeViews = list[wire.NodeView]
MatchViews = list[wire.MatchView]


class AsyncClient:
    """Wraps a `Client`. Progress callbacks are called in the event loop. Cancelling a call stops watching,
    not the work.
    """

    def __init__(
        self,
        runtime_dir: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        *,
        token: Given = None,
    ) -> None:
        self.sync = Client(runtime_dir, timeout, token=token)

    async def open(
        self, ref_path: str, *, fetch: bool = True, progress: Watcher | None = None, **wishes: Any
    ) -> io.BufferedReader:
        """See `Client.open`; for reading."""
        report = _in_loop(progress)
        return await asyncio.to_thread(
            lambda: self.sync.open(ref_path, "rb", fetch=fetch, progress=report, **wishes)
        )

    async def open_dir(self, ref_path: str, *, fetch: bool = True, progress: Watcher | None = None) -> Opened:
        """See `Client.open_dir`."""
        return await asyncio.to_thread(self.sync.open_dir, ref_path, fetch=fetch, progress=_in_loop(progress))

    async def export(
        self,
        ref_path: str,
        dest: str | os.PathLike[str],
        *,
        fetch: bool = True,
        view: bool = False,
        progress: Watcher | None = None,
    ) -> None:
        """See `Client.export`."""
        await asyncio.to_thread(
            self.sync.export, ref_path, dest, fetch=fetch, view=view, progress=_in_loop(progress)
        )

    async def open_object(
        self, address: str, *, progress: Watcher | None = None, **wishes: Any
    ) -> ObjectFile:
        """See `Client.open_object`."""
        return await asyncio.to_thread(self.sync.open_object, address, progress=_in_loop(progress), **wishes)

    async def read_object(self, address: str, **wishes: Any) -> bytes:
        """See `Client.read_object`."""
        return await asyncio.to_thread(self.sync.read_object, address, **wishes)

    async def write_object(
        self, address: str, *, progress: Watcher | None = None, **wishes: Any
    ) -> ObjectWriter:
        """See `Client.write_object`; close the file in a thread: that is when the object is stored."""
        return await asyncio.to_thread(self.sync.write_object, address, progress=_in_loop(progress), **wishes)

    async def put(
        self, source: Source, address: str, *, progress: Watcher | None = None, **wishes: Any
    ) -> wire.ObjectView:
        """See `Client.put`."""
        return await asyncio.to_thread(self.sync.put, source, address, progress=_in_loop(progress), **wishes)

    async def stat_object(self, address: str) -> wire.ObjectView:
        """See `Client.stat_object`."""
        return await asyncio.to_thread(self.sync.stat_object, address)

    async def list_objects(self, prefix: str, delimiter: str = "") -> wire.ObjectList:
        """See `Client.list_objects`."""
        return await asyncio.to_thread(self.sync.list_objects, prefix, delimiter)

    async def list_copies(self, prefix: str | None = None) -> list[wire.CopyView]:
        """See `Client.list_copies`."""
        return await asyncio.to_thread(self.sync.list_copies, prefix)

    async def clear(self, prefix: str | None = None, user: str | None = None) -> wire.ClearReply:
        """See `Client.clear`."""
        return await asyncio.to_thread(self.sync.clear, prefix, user)

    async def end_scope(
        self,
        scope: str,
        *,
        delete_origin: bool = False,
        dry_run: bool = False,
        progress: Watcher | None = None,
    ) -> wire.ScopeReply:
        """See `Client.end_scope`."""
        return await asyncio.to_thread(
            self.sync.end_scope,
            scope,
            delete_origin=delete_origin,
            dry_run=dry_run,
            progress=_in_loop(progress),
        )

    async def create(
        self,
        name: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        options: wire.CreateOptions | None = None,
        *,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> wire.SetView:
        """See `Client.create`."""
        return await asyncio.to_thread(
            self.sync.create, name, paths, options, progress=_in_loop(progress), **wishes
        )

    async def dump(
        self, obj: Any, address: str, *, progress: Watcher | None = None, **wishes: Any
    ) -> wire.ObjectView:
        """See `Client.dump`."""
        return await asyncio.to_thread(self.sync.dump, obj, address, progress=_in_loop(progress), **wishes)

    async def attest(self, descriptor: int, address: str, *, progress: Watcher | None = None) -> str:
        """See `Client.attest`."""
        return await asyncio.to_thread(self.sync.attest, descriptor, address, progress=_in_loop(progress))

    async def attested(self, address: str, *, progress: Watcher | None = None) -> wire.Attested:
        """See `Client.attested`."""
        return await asyncio.to_thread(self.sync.attested, address, progress=_in_loop(progress))

    async def load(
        self,
        address: str,
        *,
        trust: Trust = None,
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> Any:
        """See `Client.load`."""
        return await asyncio.to_thread(
            self.sync.load, address, trust=trust, scope=scope, progress=_in_loop(progress)
        )

    async def update(self, ref: str, **changes: Any) -> wire.SetView:
        """See `Client.update`."""
        return await asyncio.to_thread(self.sync.update, ref, **changes)

    async def extend(self, ref: str, seconds: int, everywhere: bool = False) -> wire.ExtendReply:
        """See `Client.extend`."""
        return await asyncio.to_thread(self.sync.extend, ref, seconds, everywhere)

    async def delete(self, ref: str, everywhere: bool = False, dry_run: bool = False) -> wire.DeleteReply:
        """See `Client.delete`."""
        return await asyncio.to_thread(self.sync.delete, ref, everywhere, dry_run)

    async def list(self, local: bool = False) -> SetViews:
        """See `Client.list`."""
        return await asyncio.to_thread(self.sync.list, local)

    async def show(self, ref: str) -> wire.SetView:
        """See `Client.show`."""
        return await asyncio.to_thread(self.sync.show, ref)

    async def files(self, ref: str) -> FileViews:
        """See `Client.files`."""
        return await asyncio.to_thread(self.sync.files, ref)

    async def nodes(self) -> NodeViews:
        """See `Client.nodes`."""
        return await asyncio.to_thread(self.sync.nodes)

    async def status(self) -> dict[str, Any]:
        """See `Client.status`."""
        return await asyncio.to_thread(self.sync.status)

    async def limits(self, **changes: int | None) -> wire.LimitsView:
        """See `Client.limits`."""
        return await asyncio.to_thread(self.sync.limits, **changes)

    async def usage(
        self, user: str | None = None, since: str | None = None, scope: str | None = None
    ) -> dict[str, Any]:
        """See `Client.usage`."""
        return await asyncio.to_thread(self.sync.usage, user, since, scope)

    async def match(self, ref: str) -> MatchViews:
        """See `Client.match`."""
        return await asyncio.to_thread(self.sync.match, ref)

    async def locate(self, names: Sequence[str], job_ad: str | None = None) -> wire.LocateReply:
        """See `Client.locate`."""
        return await asyncio.to_thread(self.sync.locate, names, job_ad)

    async def replicate(
        self,
        ref: str,
        replicas: int | None = None,
        to: Sequence[str] = (),
        wait: bool = False,
        timeout: float = 3600.0,
        *,
        progress: Watcher | None = None,
    ) -> wire.ReplicateReply:
        """See `Client.replicate`."""
        return await asyncio.to_thread(
            self.sync.replicate, ref, replicas, to, wait, timeout, progress=_in_loop(progress)
        )

    async def fetch(self, ref: str, *, progress: Watcher | None = None) -> wire.ReplicateReply:
        """See `Client.fetch`."""
        return await asyncio.to_thread(self.sync.fetch, ref, progress=_in_loop(progress))

    async def verify(
        self, ref: str, repair: bool = False, *, progress: Watcher | None = None
    ) -> wire.VerifyReply:
        """See `Client.verify`."""
        return await asyncio.to_thread(self.sync.verify, ref, repair, progress=_in_loop(progress))

    async def close(self) -> None:
        """See `Client.close`."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _in_loop(watcher: Watcher | None) -> Watcher | None:
    """Return a callback for the worker's thread that calls `watcher` in this event loop."""
    if watcher is None:
        return None
    loop = asyncio.get_running_loop()
    call: Callable[[wire.Progress], None] = watcher

    def report(progress: wire.Progress) -> None:
        loop.call_soon_threadsafe(call, progress)

    return report

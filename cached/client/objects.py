"""Objects of Cloud Storage, read and written through the node: the part of `Client` that knows `gs://BUCKET/OBJECT`.

Each open asks Cloud Storage, with this user's access token, which generation there is now and whether this user may
read it; the bytes then come from the nearest copy.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cached import packets, wire
from cached.addresses import parse, parse_prefix
from cached.client import dumps, export
from cached.client.bulk import CopyFile
from cached.client.channel import Channel, LostError, ObjectRequest, Watcher
from cached.client.rest import quoted
from cached.client.session import Session
from cached.client.spool import ObjectWriter, Source, descriptor_of
from cached.client.through import FIRST, ThroughFile
from cached.errors import CachedError, DaemonUnreachable, UsageError

Keep = Literal["auto", "memory", "none"]


class ObjectFile(io.BufferedReader):
    """An open object; `object` says which generation, `tier` where its bytes came from."""

    def __init__(self, raw: io.RawIOBase, reply: wire.ObjectReply) -> None:
        super().__init__(raw, FIRST if reply.through else io.DEFAULT_BUFFER_SIZE)
        self.object: wire.ObjectView = reply.object
        self.tier: wire.ObjectTier = reply.tier
        #: No copy could be kept here: there is no descriptor, and each read asks Cloud Storage.
        self.through: bool = reply.through


class Objects(Session):
    """The verbs on objects."""

    def open_object(
        self,
        address: str,
        *,
        keep: Keep = "auto",
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> ObjectFile:
        """Open an object, or with `#GENERATION` one of its versions, for reading.

        It is a real file with its own descriptor; only what no node could keep is read through, without one.
        `keep="memory"` keeps the copy in memory at once, `"none"` keeps none. Raises `NotFound`, `Forbidden`,
        `OriginUnavailable`, `OriginChanged`, `IntegrityFailed`.
        """
        request = ObjectRequest(str(parse(address)), self._tokens.get(), scope_of(scope), keep)
        channel, reply, descriptor = self._descriptor(request, wire.ObjectReply, progress)
        if reply.through:
            return ObjectFile(ThroughFile(self._origin, reply.object, self._tokens), reply)
        release = partial(channel.release, reply.pin)
        return ObjectFile(CopyFile(descriptor, release), reply)

    def read_object(self, address: str, *, keep: Keep = "auto", scope: str | None = None) -> bytes:
        """Return all bytes of an object."""
        with self.open_object(address, keep=keep, scope=scope) as file:
            return file.read()

    def write_object(
        self,
        address: str,
        *,
        if_generation: int | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> ObjectWriter:
        """Return a file to write to; what was written becomes the object when it is closed. See `put`."""
        parse(address)
        store = partial(
            self._put,
            address=address,
            if_generation=if_generation,
            content_type=content_type,
            metadata=metadata,
            scope=scope,
            progress=progress,
        )
        return ObjectWriter(store)

    def put(
        self,
        source: Source,
        address: str,
        *,
        if_generation: int | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> wire.ObjectView:
        """Store a path, bytes, or the rest of an open file as an object.

        Returns when Cloud Storage has it and no node reads the old one any more. `if_generation` is the generation
        that must be there before, 0: none; `OriginChanged` when that is not so. Raises `SourceChanged` when the file
        changes meanwhile, `Forbidden`, `NotFound`, `OriginUnavailable`. An interrupt gives it up.
        """
        parse(address)
        with descriptor_of(source) as descriptor:
            return self._put(
                descriptor,
                address=address,
                if_generation=if_generation,
                content_type=content_type,
                metadata=metadata,
                scope=scope,
                progress=progress,
            )

    def dump(
        self,
        obj: Any,
        address: str,
        *,
        if_generation: int | None = None,
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> wire.ObjectView:
        """Pickle a Python object and store it; what lies in large buffers (numpy, Arrow) is written from where it is.

        The node attests that this user dumped it. Raises `UsageError` for what cannot be pickled; what `put` raises.
        """
        return dumps.dump(self, obj, address, if_generation=if_generation, scope=scope, progress=progress)

    def load(
        self,
        address: str,
        *,
        trust: dumps.Trust = None,
        scope: str | None = None,
        progress: Watcher | None = None,
    ) -> Any:
        """Return a Python object that was dumped; its large buffers are read-only views of shared memory.

        Unpickling runs code, so it must have been dumped by this user, or by one of the users in `trust`;
        `trust="anyone"` asks nobody. Raises `Forbidden` otherwise, and for what was altered or moved since;
        `IntegrityFailed` for what is no dump; what `open_object` raises.
        """
        return dumps.load(self, address, trust=trust, scope=scope, progress=progress)

    def attest(self, descriptor: int, address: str, *, progress: Watcher | None = None) -> str:
        """Have the node sign that this user dumps a file's bytes to that address; for the object's metadata."""
        request = {"op": "attest", "address": str(parse(address)), "progress": True}
        return str(self._handed(request, descriptor, address, progress).get("statement", ""))

    def attested(self, address: str, *, progress: Watcher | None = None) -> wire.Attested:
        """Say who dumped an object, as the node has verified it. Raises `Forbidden` when nobody can tell."""
        body = {"address": str(parse(address))}
        return self._origin.watch(
            "attest/check", wire.Attested, progress, body=body, token=self._tokens.get()
        )

    def stat_object(self, address: str) -> wire.ObjectView:
        """Ask Cloud Storage what an object is now."""
        query = {"address": str(parse(address))}
        return self._origin.ask("GET", "stat", wire.ObjectView, query=query, token=self._tokens.get())

    def list_objects(self, prefix: str, delimiter: str = "") -> wire.ObjectList:
        """List what lies below `gs://BUCKET[/PREFIX]`; with a delimiter what lies beyond it only by its beginning."""
        query = {"prefix": str(parse_prefix(prefix)), "delimiter": delimiter}
        found = self._origin.ask("GET", "objects", wire.ObjectList, query=query, token=self._tokens.get())
        if found.error is not None:
            raise CachedError.from_wire({"error": found.error})
        return found

    def list_copies(self, prefix: str | None = None) -> list[wire.CopyView]:
        """Return what of the object cache on this node is this user's, or lies below a prefix; asks nobody else."""
        query = {} if prefix is None else {"prefix": str(parse_prefix(prefix))}
        return self._origin.ask("GET", "copies", wire.CopyList, query=query).items

    def clear(self, prefix: str | None = None, user: str | None = None) -> wire.ClearReply:
        """Empty this user's part of the cache, or what of it lies below a prefix, on all nodes.

        Another user's is for administrators of the node. Nothing is deleted in Cloud Storage.
        """
        body = {"prefix": None if prefix is None else str(parse_prefix(prefix)), "user": user}
        return self._origin.ask("POST", "clear", wire.ClearReply, body=body)

    def end_scope(
        self,
        scope: str,
        *,
        delete_origin: bool = False,
        dry_run: bool = False,
        progress: Watcher | None = None,
    ) -> wire.ScopeReply:
        """Remove a batch's sets and copies from all nodes; `delete_origin`: from Cloud Storage what it wrote there."""
        if not scope:
            raise UsageError("a scope has a name", hint="cached usage --since 1d shows those that are in use")
        body = {"delete_origin": delete_origin, "dry_run": dry_run}
        return self._origin.watch(
            f"scopes/{quoted(scope)}/end", wire.ScopeReply, progress, body=body, token=self._tokens.get()
        )

    def _open_as(
        self, address: str, mode: str, progress: Watcher | None, wishes: Mapping[str, Any]
    ) -> ObjectFile | ObjectWriter:
        if mode == "rb":
            return self.open_object(address, progress=progress, **wishes)
        if mode == "wb":
            return self.write_object(address, progress=progress, **wishes)
        raise UsageError(f"mode {mode!r}: objects are read and written whole, as bytes", hint="'rb' or 'wb'")

    def _export_object(self, address: str, dest: Path, progress: Watcher | None) -> None:
        with self.open_object(address, progress=progress) as file:
            export.export_object(file, dest, through=file.through, size=file.object.size, watcher=progress)

    def _put(
        self,
        descriptor: int,
        *,
        address: str,
        if_generation: int | None,
        content_type: str,
        metadata: Mapping[str, str] | None,
        scope: str | None,
        progress: Watcher | None,
    ) -> wire.ObjectView:
        request = {
            "op": "put",
            "address": str(parse(address)),
            "token": self._tokens.get(),
            "if_generation": if_generation,
            "scope": scope_of(scope),
            "content_type": content_type,
            "metadata": dict(metadata or {}),
            "progress": True,
        }
        return wire.convert(
            self._handed(request, descriptor, address, progress).get("object"), wire.ObjectView
        )

    def _handed(
        self, request: dict[str, Any], descriptor: int, address: str, progress: Watcher | None
    ) -> dict[str, Any]:
        """Hand a file over on a connection of its own, and return the answer; leaving early gives it up."""
        channel = Channel(self._endpoint, self._timeout)
        try:
            channel.post(request, [descriptor])
            value, descriptors = channel.answer(progress)
            packets.close_all(descriptors)
            return value
        except LostError as error:
            raise DaemonUnreachable(
                f"the daemon went away before it had confirmed {address}",
                hint="whether it was stored is not known: look at its generation, or write it again",
            ) from error
        finally:
            channel.close(abort=True)


def scope_of(scope: str | None) -> str:
    """Return the scope that is meant: what was said, else `CACHED_SCOPE`, else none."""
    return os.environ.get("CACHED_SCOPE", "") if scope is None else scope

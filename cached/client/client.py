"""`Client`: the verbs of the command line, from Python; synchronous, for threads and after forks."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import msgspec

from cached import shapes, wire
from cached.addresses import is_address
from cached.client import drawing, export, handover, walk
from cached.client.channel import Channel, OpenRequest, Watcher
from cached.client.objects import Objects, scope_of
from cached.client.opened import Opened, SetFile
from cached.client.rest import quoted
from cached.client.spool import ObjectWriter
from cached.client.wishes import options as wishes_of
from cached.errors import UsageError

Item = TypeVar("Item")


class Items(msgspec.Struct, Generic[Item]):
    """The JSON shape of lists."""

    items: list[Item]


_SETS, _FILES = Items[wire.SetView], Items[wire.FileView]
_NODES, _MATCHES = Items[wire.NodeView], Items[wire.MatchView]
shapes.settle(_SETS, _FILES, _NODES, _MATCHES)


class Client(Objects):
    """Speaks with the daemon of this node; see `Session` for its options, `Objects` for `gs://BUCKET/OBJECT`."""

    # Reading

    @overload
    def open(
        self,
        ref_path: str,
        mode: Literal["rb"] = "rb",
        *,
        fetch: bool = True,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> io.BufferedReader: ...

    @overload
    def open(
        self,
        ref_path: str,
        mode: Literal["wb"],
        *,
        fetch: bool = True,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> ObjectWriter: ...

    @overload
    def open(
        self,
        ref_path: str,
        mode: str,
        *,
        fetch: bool = True,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> io.BufferedReader | ObjectWriter: ...

    def open(
        self,
        ref_path: str,
        mode: str = "rb",
        *,
        fetch: bool = True,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> io.BufferedReader | ObjectWriter:
        """Open a file of a set, `[OWNER:]NAME[@NODE]/PATH`, or an object, `gs://BUCKET/OBJECT`, for reading: a real
        file with its own descriptor.

        Its name is a path that others in this process can open while the file is open. A set that this node
        does not have is brought here first, unless `fetch` is off. For an object `wishes` are those of `open_object`,
        with mode "wb" those of `write_object`. Raises `NotFound`, `Forbidden`, `Refused`, `UsageError`.
        """
        if is_address(ref_path):
            return self._open_as(ref_path, mode, progress, wishes)
        if mode != "rb" or wishes:
            raise UsageError(f"{ref_path}: sets are read as bytes, and never change", hint="mode 'rb'")
        channel, reply, descriptor = self._open(ref_path, fetch, progress)
        release = partial(channel.release, reply.set.id)
        if reply.kind != "file":
            os.close(descriptor)
            release()
            raise UsageError(f"{ref_path} is a directory", hint="open_dir opens directories")
        return io.BufferedReader(SetFile(descriptor, release))

    def open_dir(self, ref_path: str, *, fetch: bool = True, progress: Watcher | None = None) -> Opened:
        """Open a set, or a directory of it: a read-only descriptor through which everything below can be
        read.
        """
        channel, reply, descriptor = self._open(ref_path, fetch, progress)
        release = partial(channel.release, reply.set.id)
        if reply.kind != "dir":
            os.close(descriptor)
            release()
            raise UsageError(f"{ref_path} is a file", hint="open opens files")
        return Opened(reply, descriptor, release)

    def export(
        self,
        ref_path: str,
        dest: str | os.PathLike[str],
        *,
        fetch: bool = True,
        view: bool = False,
        progress: Watcher | None = None,
    ) -> None:
        """Copy a set, or a directory of it, to the new or empty directory DEST; a file, to the new file DEST.

        An object, `gs://BUCKET/OBJECT`, is copied to the new file DEST too. Blocks are shared where the file system
        can. On an error or Ctrl-C nothing of it is left.
        """
        if is_address(ref_path):
            self._export_object(ref_path, Path(dest), progress)
            return
        channel, reply, descriptor = self._open(ref_path, fetch, progress)
        try:
            below = ref_path.partition("/")[2].strip("/")
            listing = export.Listing(self.files(f"id:{reply.set.id}"), below)
            if reply.kind == "file":
                export.export_file(
                    descriptor, Path(dest), listing, executable=reply.executable, watcher=progress
                )
            else:
                content = f"{reply.set.content}/{below}"
                export.export_tree(
                    descriptor, Path(dest), listing, content=content, view=view, watcher=progress
                )
        finally:
            os.close(descriptor)
            channel.release(reply.set.id)

    # Writing

    def create(
        self,
        name: str,
        paths: Iterable[str | os.PathLike[str]] = (),
        options: wire.CreateOptions | None = None,
        *,
        progress: Watcher | None = None,
        **wishes: Any,
    ) -> wire.SetView:
        """Commit a directory's contents, or several PATHs by their base names, as the set NAME.

        Options may be keywords too, by the names of `CreateOptions`; `lease="2d"` and `min_lease="12h"` are read by
        units, `replicas="all"` is every node that matches. They count more than `options`.

        The files are opened here, as this user, and handed to the daemon as descriptors; an interrupt cancels
        cleanly. With `source="gs://BUCKET/PREFIX"` the node makes the set of the objects there instead, with
        `source_set=` it makes a set again that is kept there, and no paths are named. With `options.wait` this also
        waits until the replicas are there; what they refused is in the result.
        """
        options = wishes_of(options, wishes)
        named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        sent = msgspec.structs.replace(options, wait=False, scope=scope_of(options.scope) or options.scope)
        if options.source or options.source_set:
            if named:
                raise UsageError("a set is made of files or of what is in Cloud Storage: name one of them")
            made = drawing.draw(Channel(self._endpoint, self._timeout), name, sent, progress)
        else:
            sources = walk.scan(named)
            made = handover.hand_over(Channel(self._endpoint, self._timeout), name, sources, sent, progress)
        if not options.wait:
            return made
        self.replicate(f"id:{made.id}", wait=True, progress=progress)
        return self.show(f"id:{made.id}")

    def update(self, ref: str, **changes: Any) -> wire.SetView:
        """Change metadata: any of requirements, replicas, methods, share, tier."""
        return self._rest.ask("PATCH", f"sets/{quoted(ref)}", wire.SetView, body=changes)

    def extend(self, ref: str, seconds: int, everywhere: bool = False) -> wire.ExtendReply:
        """Ask for the lease to last `seconds` from now, here or on every holder; never shortens one."""
        body = {"lease_seconds": seconds, "everywhere": everywhere}
        return self._rest.ask("POST", f"sets/{quoted(ref)}/extend", wire.ExtendReply, body=body)

    def delete(self, ref: str, everywhere: bool = False, dry_run: bool = False) -> wire.DeleteReply:
        """Give up this node's replica, or delete the set everywhere; open readers finish."""
        query = {"everywhere": str(int(everywhere)), "dry_run": str(int(dry_run))}
        return self._rest.ask("DELETE", f"sets/{quoted(ref)}", wire.DeleteReply, query=query)

    # Asking

    def list(self, local: bool = False) -> builtins.list[wire.SetView]:
        """Return the sets that this user may see; only those with a replica here when `local`."""
        return self._rest.ask("GET", "sets", _SETS, query={"local": str(int(local))}).items

    def show(self, ref: str) -> wire.SetView:
        """Return one set."""
        return self._rest.ask("GET", f"sets/{quoted(ref)}", wire.SetView)

    def files(self, ref: str) -> builtins.list[wire.FileView]:
        """Return the entries of a set, in canonical order."""
        return self._rest.ask("GET", f"sets/{quoted(ref)}/files", _FILES).items

    def nodes(self) -> builtins.list[wire.NodeView]:
        """Return the nodes of the cluster, as this one knows them."""
        return self._rest.ask("GET", "nodes", _NODES).items

    def status(self) -> dict[str, Any]:
        """Return how this node is."""
        return self._rest.ask("GET", "status", dict[str, Any])

    def limits(self, **changes: int | None) -> wire.LimitsView:
        """Return what the node's links may take; change `upload` or `download` first, where one is given.

        In bytes per second, None for no limit; a change holds until the daemon starts again. Raises `Forbidden` when
        somebody other than an administrator of the node would change something.
        """
        if not changes:
            return self._rest.ask("GET", "limits", wire.LimitsView)
        body = {f"{name}_bytes_per_second": rate for name, rate in changes.items()}
        return self._rest.ask("PATCH", "limits", wire.LimitsView, body=body)

    def usage(
        self, user: str | None = None, since: str | None = None, scope: str | None = None
    ) -> dict[str, Any]:
        """Return who uses how much of this node, and what was taken `since` (`7d`, or a date as in RFC 3339).

        Raises `Forbidden` for another user's figures, `UsageError`.
        """
        wanted = {"user": user, "since": since, "scope": scope}
        query = {name: value for name, value in wanted.items() if value is not None}
        return self._rest.ask("GET", "usage", dict[str, Any], query=query)

    def match(self, ref: str) -> builtins.list[wire.MatchView]:
        """Return for every node whether it and the set agree, and if not, why."""
        return self._rest.ask("GET", f"match/{quoted(ref)}", _MATCHES).items

    def locate(self, names: Sequence[str], job_ad: str | None = None) -> wire.LocateReply:
        """Rank nodes by how near the sets' bytes are to them, best first."""
        query = [("name", name) for name in names]
        if job_ad is not None:
            query.append(("job_ad", job_ad))
        return self._rest.ask("GET", "locate", wire.LocateReply, query=query)

    # Long work; an interrupt stops watching, not the work

    def replicate(
        self,
        ref: str,
        replicas: int | None = None,
        to: Sequence[str] = (),
        wait: bool = False,
        timeout: float = 3600.0,
        *,
        progress: Watcher | None = None,
    ) -> wire.ReplicateReply:
        """Have copies made, on named nodes or on as many as wanted (-1: all that match); `wait` for them."""
        body = {"replicas": replicas, "to": [*to], "wait": wait, "timeout_seconds": timeout}
        return self._rest.watch(f"sets/{quoted(ref)}/replicate", wire.ReplicateReply, progress, body=body)

    def fetch(self, ref: str, *, progress: Watcher | None = None) -> wire.ReplicateReply:
        """Bring a set to this node and wait for it."""
        return self._rest.watch(f"sets/{quoted(ref)}/fetch", wire.ReplicateReply, progress, body={})

    def verify(self, ref: str, repair: bool = False, *, progress: Watcher | None = None) -> wire.VerifyReply:
        """Check this node's replica against its manifest, byte by byte."""
        body = {"repair": repair}
        return self._rest.watch(f"sets/{quoted(ref)}/verify", wire.VerifyReply, progress, body=body)

    # Connections

    def _open(
        self, ref_path: str, fetch: bool, watcher: Watcher | None
    ) -> tuple[Channel, wire.OpenReply, int]:
        return self._descriptor(OpenRequest(ref_path, fetch), wire.OpenReply, watcher)

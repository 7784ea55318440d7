"""fsspec filesystem `cacheset://[OWNER:]NAME[@NODE]/PATH`: cache sets for pandas, zarr, xarray, dask and their like.

Read-only. A set is opened once per instance, as a directory descriptor, and every file is then a plain local file
below it: real file objects, no copy, no further question to the daemon. So an instance goes on reading the content that
it opened first, also when the name has moved to a new set meanwhile; `invalidate_cache` asks again.
"""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from cached import wire
from cached.client import Client, Opened
from cached.client.export import mtime_of
from cached.fs.common import CopyingFileSystem, told
from cached.sets.paths import follow


class CacheSetFileSystem(CopyingFileSystem):
    """Cache sets as directories; `runtime_dir` names a daemon other than this node's usual one."""

    protocol = "cacheset"
    root_marker = ""
    #: Files have a local path: `fsspec.open_local` works.
    local_file = True

    def __init__(self, runtime_dir: str | None = None, fetch: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self._client = Client(runtime_dir)
        self._fetch = fetch
        self._lock = threading.Lock()
        self._sets: dict[str, _OpenSet] = {}

    # What is there

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a directory; the root lists the sets that this user may see."""
        path = self._strip_protocol(path)
        found = self._sets_listed() if not path else self._listed(path)
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, type, size, mtime and, of a file, its content digest (`root`)."""
        path = self._strip_protocol(path)
        name, inside = _split(path)
        if not name:
            return {"name": "", "type": "directory", "size": 0}
        return self._set(name).info(path, inside)

    def created(self, path: str) -> datetime:
        """Return when the source was last modified: a set keeps no other time of its files."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        """Return when the source was last modified, in UTC."""
        mtime = self.info(path).get("mtime")
        return datetime.fromtimestamp(0 if mtime is None else mtime, UTC)

    def checksum(self, path: str) -> str:
        """Return the digest of a file's content, the same wherever and whenever the same bytes are."""
        return str(self.info(path).get("root") or "empty")

    def ukey(self, path: str) -> str:
        """Return what changes when the content changes: its digest."""
        return self.checksum(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget the sets that were opened; what they stand for is asked again. Open files stay as they are."""
        with self._lock:
            if path is None:
                self._sets.clear()
            else:
                self._sets.pop(_split(self._strip_protocol(path))[0], None)

    # Reading

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            _read_only(path)
        name, inside = _split(self._strip_protocol(path))
        if not inside:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self._set(name).open(inside)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a file's bytes, or some of them; negative positions count from the end."""
        with self._open(path) as file:
            return _part(file.fileno(), start, end)

    def cat_ranges(
        self,
        paths: list[str],
        starts: list[int | None] | int | None,
        ends: list[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[bytes | Exception]:
        """Return many parts; every file is opened once."""
        begins = list(starts) if isinstance(starts, Sequence) else [starts] * len(paths)
        finishes = list(ends) if isinstance(ends, Sequence) else [ends] * len(paths)
        files: dict[str, io.BufferedReader | Exception] = {}
        parts: list[bytes | Exception] = []
        try:
            for path, start, end in zip(paths, begins, finishes, strict=True):
                if path not in files:
                    files[path] = self._opened_or_error(path, on_error)
                file = files[path]
                parts.append(file if isinstance(file, Exception) else _part(file.fileno(), start, end))
        finally:
            for file in files.values():
                if not isinstance(file, Exception):
                    file.close()
        return parts

    # Not writing

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def rmdir(self, path: str) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def rm_file(self, path: str) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def _rm(self, path: str) -> NoReturn:
        _read_only(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path2)

    def put_file(self, lpath: Any, rpath: str, *_: Any, **__: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(rpath)

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path)

    def mv(self, path1: str, path2: str, *_: Any, **__: Any) -> NoReturn:
        """Refuse: sets never change."""
        _read_only(path1)

    # Inside

    def _set(self, name: str) -> _OpenSet:
        with self._lock:
            found = self._sets.get(name)
            if found is None or found.pid != os.getpid():
                found = self._sets[name] = _OpenSet(self._client, name, fetch=self._fetch)
            return found

    def _listed(self, path: str) -> list[dict[str, Any]]:
        name, inside = _split(path)
        found = self._set(name)
        facts = found.info(path, inside)
        return [facts] if facts["type"] == "file" else found.children(path, inside)

    def _sets_listed(self) -> list[dict[str, Any]]:
        views = self._client.list()
        mine = {view.name for view in views}
        clashing = {name for name in mine if sum(view.name == name for view in views) > 1}
        return [
            {
                "name": f"{view.owner}:{view.name}" if view.name in clashing else view.name,
                "type": "directory",
                "size": 0,
                "id": view.id,
            }
            for view in views
        ]

    def _opened_or_error(self, path: str, on_error: str) -> io.BufferedReader | Exception:
        try:
            return self._open(path)
        except Exception as error:
            if on_error == "return":
                return error
            raise


class _OpenSet:
    """One set as this instance sees it: its listing once asked for, its directory once something of it is read."""

    def __init__(self, client: Client, name: str, *, fetch: bool) -> None:
        self.pid = os.getpid()
        self._client = client
        self._ref = name
        self._fetch = fetch
        self._lock = threading.Lock()
        self._top: Opened | None = None
        self._entries: dict[str, wire.FileView] | None = None
        self._links: dict[str, str] = {}
        self._children: dict[str, list[str]] = {}

    def open(self, inside: str) -> io.BufferedReader:
        """Open a file below the set's directory; its name is a path for this process and its children."""
        top = self._directory()
        try:
            descriptor = os.open(inside, os.O_RDONLY | os.O_CLOEXEC, dir_fd=top.fd)
        except OSError as error:
            error.filename = f"{self._ref}/{inside}"
            raise
        if not os.path.isfile(descriptor):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"{self._ref}/{inside}")
        return io.BufferedReader(_File(descriptor, f"{top.path}/{inside}", top))

    def info(self, path: str, inside: str) -> dict[str, Any]:
        """Return fsspec's facts about an entry; links are followed."""
        entries = self._listing()
        real = follow(self._links, inside) if inside else ""
        if real == "" or (real is not None and real in entries):
            facts: dict[str, Any] = {"name": path, "type": "directory", "size": 0, "set": self._ref}
            if real:
                _add_facts(facts, entries[real])
            if inside in self._links:
                facts |= {"islink": True, "destination": self._links[inside]}
            return facts
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def children(self, path: str, inside: str) -> list[dict[str, Any]]:
        """Return the facts of a directory's entries; links that lead nowhere are left out."""
        self._listing()
        real = follow(self._links, inside) if inside else ""
        found = []
        for name in self._children.get(real or "", ()):
            below = f"{inside}/{name}" if inside else name
            try:
                found.append(self.info(f"{path}/{name}", below))
            except FileNotFoundError:
                continue
        return found

    def _directory(self) -> Opened:
        with self._lock:
            if self._top is None:
                self._top = told(lambda: self._client.open_dir(self._ref, fetch=self._fetch), self._ref)
                self._ref = f"id:{self._top.set_id}"
            return self._top

    def _listing(self) -> dict[str, wire.FileView]:
        with self._lock:
            if self._entries is None:
                views = told(lambda: self._client.files(self._ref), self._ref)
                self._links = {view.path: view.target for view in views if view.target}
                for view in views:
                    parent, _, name = view.path.rpartition("/")
                    self._children.setdefault(parent, []).append(name)
                self._entries = {view.path: view for view in views}
            return self._entries


class _File(io.FileIO):
    """A file that keeps its set's directory open, and so the set pinned, as long as it lives."""

    def __init__(self, descriptor: int, name: str, top: Opened) -> None:
        super().__init__(descriptor, "rb")
        self.name = name
        self._top = top


def _split(path: str) -> tuple[str, str]:
    name, _, inside = path.strip("/").partition("/")
    return name, inside


def _add_facts(facts: dict[str, Any], view: wire.FileView) -> None:
    if view.kind == "file":
        facts |= {"type": "file", "size": view.size, "root": view.root, "executable": view.executable}
    mtime = mtime_of(view)
    if mtime is not None:
        facts["mtime"] = mtime / 1e9


def _part(descriptor: int, start: int | None, end: int | None) -> bytes:
    size = os.fstat(descriptor).st_size
    begin, finish, _ = slice(start, end).indices(size)
    parts = []
    while begin < finish:
        part = os.pread(descriptor, finish - begin, begin)
        if not part:
            break
        parts.append(part)
        begin += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_only(path: str) -> NoReturn:
    raise PermissionError(errno.EROFS, "cache sets are read-only: create a new set instead", path)

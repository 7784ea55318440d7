"""fsspec filesystem `cachegs://BUCKET/OBJECT`: objects of Cloud Storage for pandas, zarr, xarray, dask and their like.

`gs://BUCKET/OBJECT` is understood too. Each open asks Cloud Storage for the generation of this moment; nothing that was
listed is remembered. A path may end in `#GENERATION`. Objects are written whole, when the file is closed; they are
not deleted here.
"""

from __future__ import annotations

import errno
import os
from datetime import datetime
from typing import Any, Final, NoReturn

from cached import wire
from cached.client import Client, ObjectFile, ObjectWriter
from cached.client.token import Given
from cached.fs.common import CopyingFileSystem, told

_PREFIXES: Final = ("cachegs://", "gs://")


class ObjectFileSystem(CopyingFileSystem):
    """Buckets and what is in them; `runtime_dir` names another daemon, `token` is the access token to use."""

    protocol = "cachegs"
    root_marker = ""

    def __init__(
        self,
        runtime_dir: str | None = None,
        token: Given = None,
        scope: str | None = None,
        keep: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "use_listings_cache": False})
        self._client = Client(runtime_dir, token=token)
        self._scope = scope
        self._keep: Any = keep

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path)
        for prefix in _PREFIXES:
            text = text.removeprefix(prefix)
        return text.strip("/")

    def unstrip_protocol(self, name: str) -> str:
        """Return the whole address of a path."""
        return f"cachegs://{self._strip_protocol(name)}"

    # What is there

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List what lies directly below a path, or the object itself."""
        path = self._strip_protocol(path)
        below = self._below(path)
        found = _entries(path, below)
        if not (below.items or below.prefixes):
            facts = self.info(path)
            found = [facts] if facts["type"] == "file" else []
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, type, size, and of an object generation, crc32c, content type and time of writing."""
        path = self._strip_protocol(path)
        if "/" in path:
            try:
                return _facts(told(lambda: self._client.stat_object(f"gs://{path}"), path), path)
            except FileNotFoundError:
                below = self._below(path)
                if below.items or below.prefixes:
                    return _directory(path)
                raise
        self._listed(path, "")
        return _directory(path)

    def modified(self, path: str) -> datetime:
        """Return when the object was written."""
        return datetime.fromisoformat(self.info(path)["updated"])

    created = modified

    def checksum(self, path: str) -> str:
        """Return what changes with each writing of the object: its generation."""
        return str(self.info(path).get("generation", ""))

    def ukey(self, path: str) -> str:
        """Return what changes with each writing of the object: its generation."""
        return self.checksum(path)

    # Reading

    def _open(self, path: str, mode: str = "rb", **options: Any) -> ObjectFile | ObjectWriter:
        path = self._strip_protocol(path)
        if mode == "rb":
            return told(
                lambda: self._client.open_object(f"gs://{path}", keep=self._keep, scope=self._scope), path
            )
        if mode != "wb" or not options.get("autocommit", True):
            raise NotImplementedError(
                f"gs://{path}: objects are written whole, with mode 'wb', and outside of transactions"
            )
        return self._client.write_object(f"gs://{path}", scope=self._scope)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return an object's bytes, or some of them; negative positions count from the end."""
        with self._reading(path) as file:
            begin, finish, _step = slice(start, end).indices(file.object.size)
            file.seek(begin)
            return file.read(max(0, finish - begin))

    # Writing

    def put_file(
        self, lpath: Any, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any
    ) -> None:
        """Store a file as an object; a directory is nothing that could be stored."""
        if os.path.isdir(lpath):
            return
        if callback is not None:
            callback.set_size(os.path.getsize(lpath))
        self._stored(lpath, rpath, mode)
        if callback is not None:
            callback.absolute_update(os.path.getsize(lpath))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Store bytes as an object; with mode "create" only where none is."""
        self._stored(value, path, mode)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Store an empty object; one that is there is not touched without `truncate`."""
        if truncate or not self.exists(path):
            self._stored(b"", path, "overwrite")

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Store a copy of an object."""
        with self._reading(path1) as source:
            self._stored(source, path2, "overwrite")

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing: directories are no more than beginnings of names, and buckets are not made here."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing, as `mkdir`."""

    def rmdir(self, path: str) -> NoReturn:
        """Refuse."""
        _kept(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> NoReturn:
        """Refuse."""
        _kept(path)

    def rm_file(self, path: str) -> NoReturn:
        """Refuse."""
        _kept(path)

    def _rm(self, path: str) -> NoReturn:
        _kept(path)

    def mv(self, path1: str, path2: str, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        _kept(path1)

    # Inside

    def _reading(self, path: str) -> ObjectFile:
        file = self._open(path)
        assert isinstance(file, ObjectFile)
        return file

    def _stored(self, source: Any, path: str, mode: str) -> None:
        address = f"gs://{self._strip_protocol(path)}"
        generation = 0 if mode == "create" else None
        told(lambda: self._client.put(source, address, if_generation=generation, scope=self._scope), path)

    def _below(self, path: str) -> wire.ObjectList:
        bucket, _, name = path.partition("/")
        return self._listed(bucket, f"{name}/" if name else "")

    def _listed(self, bucket: str, name: str) -> wire.ObjectList:
        if not bucket:
            raise PermissionError(
                errno.EPERM, "buckets are not listed through the node: name one", "cachegs://"
            )
        return told(lambda: self._client.list_objects(f"gs://{bucket}/{name}", "/"), f"{bucket}/{name}")


def _entries(path: str, below: wire.ObjectList) -> list[dict[str, Any]]:
    """Return fsspec's facts; objects that stand for a directory (`DIR/`) are left out."""
    bucket = path.partition("/")[0]
    items = [each for each in below.items if not each.name.endswith("/")]
    return [
        *(_directory(f"{bucket}/{each.rstrip('/')}") for each in below.prefixes),
        *(_facts(each, f"{each.bucket}/{each.name}") for each in items),
    ]


def _facts(view: wire.ObjectView, path: str) -> dict[str, Any]:
    return {
        "name": path,
        "type": "file",
        "size": view.size,
        "generation": view.generation,
        "crc32c": view.crc32c,
        "contentType": view.content_type,
        "updated": view.updated,
    }


def _directory(path: str) -> dict[str, Any]:
    return {"name": path, "type": "directory", "size": 0}


def _kept(path: Any) -> NoReturn:
    raise PermissionError(
        errno.EPERM, "objects are not deleted through the cache: use Cloud Storage's own tools", str(path)
    )

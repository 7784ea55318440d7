"""Sending: one attempt to bring a tree of files into the origin, with what makes it a set there.

Every object is written only where there is none: one that is there already counts as written when its bytes are the
same, and else ends the attempt.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from cached import faults
from cached.addresses import Address, Prefix
from cached.errors import BadName, IntegrityFailed, NotFound, OriginChanged
from cached.node import compared, origins
from cached.node.node import Node
from cached.node.parallel import each
from cached.node.upload import Upload
from cached.origin import document, naming, places
from cached.origin.crc import crc32c as checksum
from cached.origin.document import Document, Part
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets import manifest as manifests
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import hash_leaves, root_from_leaves
from cached.storage import files
from cached.storage.disk import Store
from cached.storage.staging import Staging
from cached.undisturbed import undisturbed

PERSIST_STORED = faults.declare("persist.stored")
PERSIST_DOCUMENT = faults.declare("persist.document")

#: What is done is written down this often, in seconds; what is not is found in the origin again.
NOTE_EVERY = 1.0
_READ = 1 << 20


class Tree(Protocol):
    """Where the files to send lie. All calls block."""

    def open(self, path: str) -> int:
        """Open a file for reading; the caller closes it."""

    def leaves(self) -> bytes:
        """Return the leaf digests of all files."""

    def mtimes(self) -> bytes | None:
        """Return the modification times when they are known."""


class Stored:
    """A content of a store."""

    def __init__(self, store: Store, content: str) -> None:
        self._store, self._content = store, content

    def open(self, path: str) -> int:
        """Open a file for reading."""
        root = self._store.open_content(self._content)
        try:
            return self._store.open_file(root, path)
        finally:
            os.close(root)

    def leaves(self) -> bytes:
        """Return the leaf digests of all files."""
        return self._store.leaves(self._content)

    def mtimes(self) -> bytes | None:
        """Return the modification times when they are known."""
        return self._store.mtimes(self._content)


class Staged:
    """A sealed staging area."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self.leaves = staging.leaves
        self.mtimes = staging.mtimes

    def open(self, path: str) -> int:
        """Open a file for reading."""
        return Store.open_file(self._staging.data_fd, path)


def check_free(manifest: Manifest) -> None:
    """Raise `BadName` for a set with files where the origin keeps what makes it one."""
    taken = next((one.path for one in manifest.entries if one.path.startswith(naming.KEPT)), None)
    if taken is not None:
        raise BadName(f"{taken!r} lies where the origin keeps what makes it a set", hint="leave .cached/ out")


async def document_of(node: Node, prefix: Prefix, content: str) -> tuple[Address, Document | None]:
    """Return where the document of a content is to lie, and the one that lies there, if any.

    Raises `OriginChanged` when it is another set's, `NotFound` when there is no such bucket.
    """
    base = naming.directory(prefix.name)
    address = Address(prefix.bucket, document.name(base))
    try:
        pinned = await origins.port(node).stat(address, token=NODE_ACCOUNT)
    except NotFound as error:
        if "bucket" in error.details:
            raise
        return address, None
    found = document.decode(await origins.read(node, pinned, document.MOST), str(address))
    if found.content != content:
        raise OriginChanged(
            f"another set is kept below gs://{prefix.bucket}/{base}", hint="choose another prefix"
        )
    return address, found


class Sending:
    """One attempt. All objects get `marks` as metadata; `charge` hears the bytes of each file that was brought."""

    def __init__(
        self,
        node: Node,
        upload: Upload,
        tree: Tree,
        prefix: Prefix,
        *,
        marks: Mapping[str, str],
        charge: Callable[[int], None],
    ) -> None:
        self._node = node
        self._upload = upload
        self._tree = tree
        self._prefix = prefix
        self._marks = marks
        self._charge = charge
        self._bucket = prefix.bucket
        self._base = naming.directory(prefix.name)
        self._origin = origins.port(node)
        self._loop = asyncio.get_running_loop()
        #: What lies below the prefix, by name, when a document does that tells of this set, but not all of the set.
        self._there: dict[str, Pinned] = {}

    async def run(self, manifest: Manifest) -> bytes:
        """Return where the files lie once all of the set is there. Raises what keeps it out."""
        self._upload.bytes_wanted = manifest.total_bytes
        found = await self.present(manifest)
        return await self.send(manifest) if found is None else found

    async def present(self, manifest: Manifest) -> bytes | None:
        """Return where the files lie when all of the set is there already, None when something is to be sent.

        Raises `OriginChanged` when another set is.
        """
        address, found = await document_of(self._node, self._prefix, self._upload.row.content)
        if found is None:
            return None
        lying = await compared.compare(self._node, self._bucket, self._base, found, manifest)
        if lying.whole is None:
            self._node.counters.note("persist.incomplete", f"{address} tells of a set that is not all there")
            self._there, self._upload.done.objects = lying.there, lying.files
        return lying.whole

    async def send(self, manifest: Manifest) -> bytes:
        """Write what is not there; return where the files lie."""
        done, entries = self._upload.done, list(manifest.files())
        self._upload.bytes_done = sum(entry.size for entry in entries if entry.path in done.objects)
        missing = [entry for entry in entries if entry.path not in done.objects]
        await each(missing, self._file, width=max(1, self._node.config.origin.threads // 2))
        await self._note()
        mapped = await asyncio.to_thread(self._mapped, manifest)
        await self._describe(manifest, mapped)
        return mapped

    def _mapped(self, manifest: Manifest) -> bytes:
        """Return where the files lie, all of which are written. Takes long for many."""
        done = self._upload.done.objects
        objects = {
            entry.path: Pinned(self._bucket, self._base + entry.path, generation, entry.size, crc32c)
            for entry in manifest.files()
            for generation, crc32c in [done[entry.path]]
        }
        return places.encode(places.of_objects(self._bucket, self._base, objects, manifest))

    async def _file(self, entry: Entry) -> None:
        fd = await undisturbed(partial(self._tree.open, entry.path), os.close)
        try:
            with files.translated(entry.path):
                crc32c = await self._crc32c(fd, entry)
                pinned = await self._put(fd, entry.size, self._base + entry.path, crc32c, session=entry.path)
        finally:
            self._upload.going.pop(entry.path, None)
            os.close(fd)
        done = self._upload.done
        done.objects[entry.path] = (pinned.generation, pinned.crc32c)
        done.sessions.pop(entry.path, None)
        self._upload.bytes_done += entry.size
        self._node.counters.add("persist.bytes", entry.size)
        self._charge(entry.size)
        if self._loop.time() - self._upload.noted > NOTE_EVERY:
            await self._note()
        faults.point(PERSIST_STORED)

    async def _crc32c(self, fd: int, entry: Entry) -> int:
        """Read in a thread, which uses the descriptor no more when this returns."""
        job = self._loop.run_in_executor(self._node.copiers, _checked, fd, entry)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise

    async def _put(
        self, fd: int, size: int, name: str, crc32c: int, *, session: str = "", over: int = 0
    ) -> Pinned:
        """Write an object where there is none, or find that it is there already. Raises `OriginChanged`.

        `over` is the generation that it is to replace; 0 for none.
        """
        address = Address(self._bucket, name)

        def begun(uri: str) -> None:  # in whatever thread
            self._loop.call_soon_threadsafe(self._begun, session, uri)

        def moved(count: int) -> None:
            self._upload.going[session] = count

        try:
            return await self._origin.put(
                fd,
                size,
                address,
                token=NODE_ACCOUNT,
                crc32c=crc32c,
                if_generation=over,
                content_type="application/octet-stream",
                metadata=self._marks,
                on_session=begun if session else None,
                resume=self._upload.done.sessions.get(session, ""),
                progress=moved if session else None,
            )
        except OriginChanged:
            there = await self._origin.stat(address, token=NODE_ACCOUNT)
            if (there.size, there.crc32c) == (size, crc32c):
                self._node.counters.add("persist.found")
                return there
            raise OriginChanged(
                f"{address} is there already, with other bytes", hint="remove it, or choose another prefix"
            ) from None

    def _begun(self, path: str, uri: str) -> None:
        """Write down at once where a large upload can be gone on with."""
        self._upload.done.sessions[path] = uri
        self._node.fly(f"persist note {self._upload.row.set_id}", self._note)

    async def _note(self) -> None:
        self._upload.noted = self._loop.time()
        data = msgspec.msgpack.encode(self._upload.done)
        row = msgspec.structs.replace(self._upload.row, done=data)
        if self._node.uploads.get(row.set_id) is self._upload:
            await self._node.catalog.write(lambda tx: tx.put_upload(row))

    async def _describe(self, manifest: Manifest, mapped: bytes) -> None:
        """Write the parts beside the files, then the document."""
        content, tree = self._upload.row.content, self._tree
        data = {
            "manifest": await asyncio.to_thread(manifests.encode, manifest),
            "leaves": await asyncio.to_thread(tree.leaves),
            "mtimes": await asyncio.to_thread(tree.mtimes),
            "places": mapped,
        }
        parts = {}
        for part in document.PARTS:
            if (bytes_of := data[part]) is not None:
                pinned = await self._put_bytes(bytes_of, document.part_name(self._base, part))
                parts[part] = Part(generation=pinned.generation, size=pinned.size, crc32c=pinned.crc32c)
        whole = Document(content=content, bytes=manifest.total_bytes, files=manifest.file_count, parts=parts)
        await self._put_bytes(document.encode(whole), document.name(self._base))
        faults.point(PERSIST_DOCUMENT)

    async def _put_bytes(self, data: bytes, name: str) -> Pinned:
        there = self._there.get(name)
        crc32c = await asyncio.to_thread(checksum, data)
        if there is not None and (there.size, there.crc32c) == (len(data), crc32c):
            return there
        fd = await undisturbed(partial(_in_memory, data), os.close)
        try:
            over = 0 if there is None else there.generation
            return await self._put(fd, len(data), name, crc32c, over=over)
        finally:
            os.close(fd)


def _in_memory(data: bytes) -> int:
    """Return a file that holds `data` and takes no space on disk: a full node ends its uploads all the same."""
    fd = os.memfd_create("cached-persist", os.MFD_CLOEXEC)
    try:
        with files.translated("memory"):
            files.write_all(fd, data, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _checked(fd: int, entry: Entry) -> int:
    """Return the crc32c of a file; raises `IntegrityFailed` unless its bytes are those of the manifest."""
    crc, leaves, at = 0, [], 0
    while data := os.pread(fd, _READ, at):
        crc = checksum(data, crc)
        leaves.append(hash_leaves(data))
        at += len(data)
    if at != entry.size or root_from_leaves(b"".join(leaves)) != entry.root:
        raise IntegrityFailed(
            f"{entry.path!r} does not match the manifest", hint="cached verify --repair", path=entry.path
        )
    return crc

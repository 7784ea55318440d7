"""Persist: a committed set goes into the origin, file by file, and the document that makes it a set there comes last.

A row says that it is to be done, and what is done, so that a restart goes on. Every object is written only where there
is none: one that is there already counts as written when its bytes are the same, and else ends the upload.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial

import msgspec

from cached import faults, wire
from cached.addresses import Address, Prefix, parse_prefix
from cached.catalog.rows import UploadRow
from cached.errors import BadName, Busy, CachedError, IntegrityFailed, NotFound, OriginChanged
from cached.node import announce, compared, ledger, metadata, origins
from cached.node.node import Node
from cached.node.parallel import each
from cached.node.shelf import Known
from cached.node.upload import Done, Upload
from cached.origin import document, naming, places
from cached.origin.crc import crc32c as checksum
from cached.origin.document import Document, Part
from cached.origin.values import NODE_ACCOUNT, Pinned
from cached.sets import manifest as manifests
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import hash_leaves, root_from_leaves
from cached.storage import files
from cached.storage.disk import Store
from cached.undisturbed import undisturbed

PERSIST_STORED = faults.declare("persist.stored")
PERSIST_DOCUMENT = faults.declare("persist.document")
PERSIST_MAPPED = faults.declare("persist.mapped")
PERSIST_DONE = faults.declare("persist.done")

#: Seconds until a failed upload is tried again: the first time, and at most.
PAUSE = 5.0
LONGEST = 300.0
#: What is done is written down this often, in seconds; what is not is found in the origin again.
NOTE_EVERY = 1.0
_READ = 1 << 20


def start(node: Node, row: UploadRow) -> None:
    """Begin, or go on with, the upload of a set whose row is in the catalog; one that waits is tried at once."""
    upload = node.uploads.get(row.set_id)
    if upload is None or upload.row.target != row.target:
        upload = node.uploads[row.set_id] = Upload(row=row, done=_read_done(row))
    upload.error = None
    upload.attempted.clear()
    upload.hurry.set()
    task = node.fly(f"persist {row.set_id}", partial(_run, node, row.set_id))
    task.add_done_callback(lambda _: _told(upload))


def resume_all(node: Node) -> None:
    """After a restart: go on with every upload."""
    for row in node.catalog.read_now(lambda tx: tx.uploads()):
        start(node, row)


async def kept(node: Node, set_id: str) -> None:
    """Wait until the origin has a set, or until an attempt has failed, which is raised."""
    upload = node.uploads.get(set_id)
    if upload is None:
        return
    await upload.attempted.wait()
    if upload.error is not None:
        error = upload.error
        fresh = type(error)(
            f"the set is committed on this node, but the origin does not have all of it: {error.message}",
            hint=error.hint or "it is tried again by itself: cached show tells how far it is",
        )
        fresh.details = {**error.details, "id": set_id}
        raise fresh


def report(node: Node, set_id: str) -> wire.Progress | None:
    """Return how far an upload is; None when there is none."""
    upload = node.uploads.get(set_id)
    if upload is None:
        return None
    return wire.Progress(
        bytes_present=upload.bytes_done,
        bytes_wanted=upload.bytes_wanted,
        files_done=len(upload.done.objects),
        state="UPLOADING",
        reason=upload.reason,
    )


async def _run(node: Node, set_id: str) -> None:
    pause = PAUSE
    while not node.draining and (upload := node.uploads.get(set_id)) is not None:
        upload.hurry.clear()
        try:
            await _attempt(node, upload)
        except CachedError as error:
            upload.error = error
            node.counters.note("persist.failed", error.message, set=set_id[:8])
            upload.attempted.set()
            announce.publish(node)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await upload.hurry.wait()
            pause = PAUSE if upload.hurry.is_set() else min(2 * pause, LONGEST)
        else:
            upload.error = None
            upload.attempted.set()
            return


def _told(upload: Upload) -> None:
    """Let nobody wait for an attempt that does not come any more, however the work on the upload has ended."""
    if not upload.attempted.is_set():
        upload.error = upload.error or Busy(
            "the upload was interrupted", hint="it goes on once the node has started again"
        )
        upload.attempted.set()


async def _attempt(node: Node, upload: Upload) -> None:
    """Bring all of it into the origin. Raises what keeps it out."""
    set_id, content = upload.row.set_id, upload.row.content
    known, store = node.shelf.known.get(set_id), metadata.local(node, content)
    if known is None or known.record.status != "live" or set_id not in node.shelf.replicas:
        await _forget(node, upload)  # it was deleted, or withdrawn: nobody wants it there any more
        return
    if store is None:
        raise Busy("its files are not here at present", hint="it goes on once they are")
    prefix = parse_prefix(upload.row.target)
    _check_named(node, known, prefix)
    manifest = await asyncio.to_thread(store.manifest, content)
    _check_free(manifest)
    upload.bytes_wanted = manifest.total_bytes
    sending = _Sending(node, upload, store, prefix)
    found = await sending.present(manifest)
    if found is None:
        found = await sending.send(manifest)
    if not await asyncio.to_thread(store.has, content):
        raise Busy("its files have just been deleted here")
    await asyncio.to_thread(store.put_places, content, found)
    faults.point(PERSIST_MAPPED)
    await _forget(node, upload)
    faults.point(PERSIST_DONE)
    node.counters.add("persist.done")


def _check_named(node: Node, known: Known, prefix: Prefix) -> None:
    if prefix.bucket not in node.config.origin.buckets:
        raise NotFound(
            f"gs://{prefix.bucket} is not listed under [origin] buckets any more",
            hint="list it again, or delete the set",
        )
    origins.port(node)
    if not known.record.origin:
        raise Busy("the set is to be kept nowhere")


def _check_free(manifest: Manifest) -> None:
    taken = next((one.path for one in manifest.entries if one.path.startswith(naming.KEPT)), None)
    if taken is not None:
        raise BadName(f"{taken!r} lies where the origin keeps what makes it a set", hint="leave .cached/ out")


async def _forget(node: Node, upload: Upload) -> None:
    await node.catalog.write(lambda tx: tx.delete_upload(upload.row.set_id))
    if node.uploads.get(upload.row.set_id) is upload:
        del node.uploads[upload.row.set_id]


def _read_done(row: UploadRow) -> Done:
    try:
        return msgspec.msgpack.decode(row.done, type=Done) if row.done else Done()
    except msgspec.MsgspecError:
        return Done()


class _Sending:
    """One attempt."""

    def __init__(self, node: Node, upload: Upload, store: Store, prefix: Prefix) -> None:
        self._node = node
        self._upload = upload
        self._store = store
        self._bucket = prefix.bucket
        self._base = naming.directory(prefix.name)
        self._origin = origins.port(node)
        self._content = upload.row.content
        self._loop = asyncio.get_running_loop()
        #: What lies below the prefix, by name, when a document does that tells of this set, but not all of the set.
        self._there: dict[str, Pinned] = {}

    async def present(self, manifest: Manifest) -> bytes | None:
        """Return where the files lie when all of the set is there already, None when something is to be sent.

        Raises `OriginChanged` when another set is.
        """
        address = Address(self._bucket, document.name(self._base))
        try:
            pinned = await self._origin.stat(address, token=NODE_ACCOUNT)
        except NotFound:
            return None
        found = document.decode(await origins.read(self._node, pinned, document.MOST), str(address))
        if found.content != self._content:
            raise OriginChanged(
                f"another set is kept below gs://{self._bucket}/{self._base}", hint="choose another prefix"
            )
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
        fd = await undisturbed(partial(self._open, entry.path), os.close)
        try:
            with files.translated(entry.path):
                crc32c = await self._crc32c(fd, entry)
                pinned = await self._put(fd, entry.size, self._base + entry.path, crc32c, session=entry.path)
        finally:
            os.close(fd)
        done = self._upload.done
        done.objects[entry.path] = (pinned.generation, pinned.crc32c)
        done.sessions.pop(entry.path, None)
        self._upload.bytes_done += entry.size
        self._node.counters.add("persist.bytes", entry.size)
        ledger.spent_on(self._node, self._upload.row.set_id, entry.size, 1)
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

    def _open(self, path: str) -> int:
        root = self._store.open_content(self._content)
        try:
            return self._store.open_file(root, path)
        finally:
            os.close(root)

    async def _put(
        self, fd: int, size: int, name: str, crc32c: int, *, session: str = "", over: int = 0
    ) -> Pinned:
        """Write an object where there is none, or find that it is there already. Raises `OriginChanged`.

        `over` is the generation that it is to replace; 0 for none.
        """
        address = Address(self._bucket, name)

        def begun(uri: str) -> None:  # in whatever thread
            self._loop.call_soon_threadsafe(self._begun, session, uri)

        try:
            return await self._origin.put(
                fd,
                size,
                address,
                token=NODE_ACCOUNT,
                crc32c=crc32c,
                if_generation=over,
                content_type="application/octet-stream",
                on_session=begun if session else None,
                resume=self._upload.done.sessions.get(session, ""),
            )
        except OriginChanged:
            there = await self._origin.stat(address, token=NODE_ACCOUNT)
            if (there.size, there.crc32c) == (size, crc32c):
                self._node.counters.add("persist.found")
                return there
            raise OriginChanged(
                f"{address} is there already, with other bytes", hint="choose another prefix, or remove it"
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
        store, content = self._store, self._content
        data = {
            "manifest": await asyncio.to_thread(manifests.encode, manifest),
            "leaves": await asyncio.to_thread(store.leaves, content),
            "mtimes": await asyncio.to_thread(store.mtimes, content),
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

"""Persist: a committed set goes into the origin, file by file, and the document that makes it a set there comes last.

A row says that it is to be done, and what is done, so that a restart goes on. A set that takes the place of another one
goes there before that: `ahead`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial

import msgspec

from cached import faults, wire
from cached.addresses import Prefix, parse_prefix
from cached.catalog.rows import UploadRow
from cached.critical import end
from cached.errors import Busy, CachedError, NotFound
from cached.node import announce, ledger, metadata, origins
from cached.node.node import Node
from cached.node.sending import Sending, Stored, check_free
from cached.node.shelf import Known
from cached.node.unkeep import mark
from cached.node.upload import Done, Upload
from cached.origin.waiting import followed

PERSIST_MAPPED = faults.declare("persist.mapped")
PERSIST_DONE = faults.declare("persist.done")

#: Seconds until a failed upload is tried again: the first time, and at most.
PAUSE = 5.0
LONGEST = 300.0


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


async def stop(node: Node, set_id: str) -> None:
    """End the upload of a set that leaves this node; nothing of it is written any more when this returns."""
    upload, task = node.uploads.get(set_id), node.flights.get(f"persist {set_id}")
    if upload is not None:
        upload.stopped = True
    if task is not None:
        await end(task)
    if upload is not None:
        await _forget(node, upload)


async def kept(node: Node, set_id: str) -> None:
    """Wait until the origin has a set, or until an attempt has failed, which is raised."""
    upload = node.uploads.get(set_id)
    if upload is None:
        return
    await upload.attempted.wait()
    if upload.stopped:
        raise NotFound("the set was deleted before the origin had all of it")
    if upload.error is not None:
        error = upload.error
        advice = f"{error.hint}; " if error.hint else ""
        fresh = type(error)(
            f"the set is committed on this node, but the origin does not have all of it: {error.message}",
            hint=f"{advice}the node tries again by itself, and the same command waits for it; or give it up:"
            " cached delete, or --replace with another --origin",
        )
        fresh.details = {**error.details, "id": set_id}
        raise fresh


def report(node: Node, set_id: str) -> wire.Progress | None:
    """Return how far an upload is; None when there is none."""
    upload = node.uploads.get(set_id)
    if upload is None:
        return None
    return progress(upload, "UPLOADING")


def progress(upload: Upload, state: str) -> wire.Progress:
    """Return how far an upload is, as clients are told."""
    return wire.Progress(
        bytes_present=upload.bytes_present,
        bytes_wanted=upload.bytes_wanted,
        files_done=len(upload.done.objects),
        state=state,
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
            upload.retry_at = time.monotonic() + pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await upload.hurry.wait()
            upload.retry_at = None
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
    check_free(manifest)

    def charge(size: int) -> None:
        ledger.spent_on(node, set_id, size, 1)

    marks = mark(known.record.owner, known.record.scope)
    sending = Sending(node, upload, Stored(store, content), prefix, marks=marks, charge=charge)
    with followed(upload.waiting):
        found = await sending.run(manifest)
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


async def _forget(node: Node, upload: Upload) -> None:
    await node.catalog.write(lambda tx: tx.delete_upload(upload.row.set_id))
    if node.uploads.get(upload.row.set_id) is upload:
        del node.uploads[upload.row.set_id]


def _read_done(row: UploadRow) -> Done:
    try:
        return msgspec.msgpack.decode(row.done, type=Done) if row.done else Done()
    except msgspec.MsgspecError:
        return Done()

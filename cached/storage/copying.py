"""Copying bytes into a staged file while hashing them: one pass, or a reflink where the file system can."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from cached import faults
from cached.errors import IntegrityFailed, SourceChanged
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import hash_leaves, root_from_leaves
from cached.storage import files, tree
from cached.storage.beneath import start_writing
from cached.storage.disk import Store
from cached.storage.publication import leaf_bytes

#: Bytes read at a time; a multiple of the 16 KiB leaf.
BUFFER = 1 << 20
#: From so many bytes on two threads share a file.
SHARED = 64 << 20
#: Bytes after which the kernel is told to write them to the device.
AHEAD = 16 << 20
_FICLONE = 0x40049409
_CANNOT_CLONE = frozenset(
    {
        errno.EXDEV,
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EINVAL,
        errno.EPERM,
        errno.EACCES,
        errno.ETXTBSY,
        errno.ENOSYS,
    }
)
COPY_FILE = faults.declare("copy.file")

#: Called with the number of bytes done since the last call; may raise to stop the work.
Report = Callable[[int], None]
_local = threading.local()
#: Threads that hash at one time, and that write: one processor is left to those that answer. More threads than that
#: would only take the interpreter's lock, and what the file system locks, from each other and from the event loop.
_AT_ONCE = max(1, (os.cpu_count() or 1) - 1)
_hashing = threading.BoundedSemaphore(_AT_ONCE)
_writing = threading.BoundedSemaphore(_AT_ONCE)
_NO_TURN: AbstractContextManager[object] = nullcontext()


def read_leaves(source: int, size: int, report: Report, *, into: int | None = None) -> bytes:
    """Read the first `size` bytes of `source`, write them to `into` too, and return their leaf digests.

    `SourceChanged` when the source ends early. The position of both descriptors stays as it is.
    """
    return _read_part(source, 0, size, report, into)


def read_shared(source: int, size: int, report: Report, *, into: int | None = None) -> bytes:
    """Do as `read_leaves`, a large file by two threads where there are processors for them.

    What is written goes to the device while the rest is read. `report` is called by both.
    """
    part = partial(
        _read_part,
        source,
        report=report,
        into=into,
        ahead=size >= SHARED,
        hashing=_hashing,
        writing=_writing,
    )
    if size < SHARED or _AT_ONCE < 2:
        return part(0, size)
    middle = size // 2 // BUFFER * BUFFER
    with ThreadPoolExecutor(1, thread_name_prefix="copy") as other:
        rest = other.submit(part, middle, size)
        return part(0, middle) + rest.result()


def root(leaves: bytes) -> bytes:
    """Return the root over the leaf digests of a file; in turn: it keeps the interpreter's lock all the time."""
    with _hashing:
        return root_from_leaves(leaves)


def _read_part(
    source: int,
    start: int,
    end: int,
    report: Report,
    into: int | None,
    *,
    ahead: bool = False,
    hashing: AbstractContextManager[object] = _NO_TURN,
    writing: AbstractContextManager[object] = _NO_TURN,
) -> bytes:
    buffer = _buffer()
    digests = []
    done = begun = start
    while done < end:
        view = buffer[: min(BUFFER, end - done)]
        _read_full(source, view, done)
        with hashing:
            digests.append(hash_leaves(view))
        if into is not None:
            with writing:
                files.write_all(into, view, done)
        done += len(view)
        report(len(view))
        if ahead and into is not None and done - begun >= AHEAD:
            start_writing(into, begun, done - begun)
            begun = done
    return b"".join(digests)


def clone(source: int, goal: int) -> bool:
    """Make `goal` share the blocks of `source` (FICLONE); return False where the file system cannot."""
    try:
        fcntl.ioctl(goal, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_CLONE:
            return False
        raise
    return True


def copy_content(
    source: Store, content: str, goal: Store, txid: str, report: Report = lambda _: None
) -> None:
    """Copy a content into the staging area `txid` of another store, verified on the way, and seal it.

    The caller reserves the space before and publishes after. Files that an earlier attempt left are
    written again. `IntegrityFailed` names the first damaged file of the source.
    """
    manifest = source.manifest(content)
    data_fd = source.open_content(content)
    try:
        with goal.stage(txid) as staging, files.translated(staging.path):
            staging.prepare(manifest)
            leaves = bytearray()
            for entry in manifest.files():
                if entry.size:
                    staging.use(entry.size)
                    leaves += _copy_file(data_fd, entry, staging.open_writer(entry), report)
                    faults.point(COPY_FILE)
            staging.seal(source.manifest_bytes(content), bytes(leaves), source.mtimes(content))
            for signed in source.get_records(content):
                staging.put_record(signed)
    finally:
        os.close(data_fd)


def check_leaves(manifest: Manifest, leaves: bytes) -> None:
    """Raise `IntegrityFailed` unless the leaf digests of every file lead to its root."""
    check_length(manifest, leaves)
    offset = 0
    for entry in manifest.files():
        length = leaf_bytes(entry)
        if root_from_leaves(leaves[offset : offset + length]) != entry.root:
            raise IntegrityFailed(
                f"the leaf digests of {entry.path!r} do not lead to its root", path=entry.path
            )
        offset += length


def check_length(manifest: Manifest, leaves: bytes) -> None:
    """Raise `IntegrityFailed` unless there are as many leaf digests as the files need."""
    if sum(map(leaf_bytes, manifest.files())) != len(leaves):
        raise IntegrityFailed("the leaf digests do not fit the manifest")


def _copy_file(data_fd: int, entry: Entry, writer: int, report: Report) -> bytes:
    try:
        reader = tree.open_file(data_fd, entry.path)
        try:
            leaves = read_leaves(reader, entry.size, report, into=writer)
        except SourceChanged as error:
            raise IntegrityFailed(
                f"{entry.path!r} is shorter than the manifest says", path=entry.path
            ) from error
        finally:
            os.close(reader)
        os.ftruncate(writer, entry.size)
    finally:
        os.close(writer)
    if root_from_leaves(leaves) != entry.root:
        raise IntegrityFailed(f"{entry.path!r} does not match the manifest", path=entry.path)
    return leaves


def _read_full(source: int, view: memoryview, offset: int) -> None:
    while view:
        got = os.preadv(source, [view], offset)
        if got == 0:
            raise SourceChanged(
                f"the file ended at {offset} bytes while it was read",
                hint="create the set again once the file rests",
            )
        offset += got
        view = view[got:]


def _buffer() -> memoryview:
    """Return this thread's buffer."""
    view: memoryview | None = getattr(_local, "view", None)
    if view is None:
        view = _local.view = memoryview(bytearray(BUFFER))
    return view

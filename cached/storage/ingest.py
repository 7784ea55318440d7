"""Ingest: a user's open files become a staged content, copied and hashed in one pass.

The daemon never opens a user's path: it gets descriptors. Any number of threads may add entries of one
ingest at the same time. Never more bytes are written than were reserved, and a file that changes while it
is read is an error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cached import faults
from cached.errors import BadName, Busy, NoSpace, SourceChanged, UnsupportedFile, UsageError
from cached.sets import manifest as manifests
from cached.sets.leaves import encode_mtimes
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, LEAF, hash_leaves
from cached.sets.paths import check_link, check_path
from cached.storage import copying, files, tree
from cached.storage.disk import Store
from cached.storage.publication import file_mode
from cached.storage.small import cut, shared_out, write_new

INGEST_FILE = faults.declare("ingest.file")
INGEST_SEALED = faults.declare("ingest.sealed")

#: Bytes of the files of one bundle together, at most.
MOST_BUNDLED = 4 << 20
#: Leaf digests held in memory before they go to a file, and written at a time at the end; bytes.
_SPOOLED = 16 << 20
_WRITTEN = 1 << 20


class Small(Protocol):
    """A small file in a bundle, as it was announced."""

    @property
    def path(self) -> str:
        """In the set."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def executable(self) -> bool:
        """Whether it can be run."""

    @property
    def mtime_ns(self) -> int:
        """Modification time in nanoseconds."""


class Ingest:
    """One content in the making, in the staging area `txid` of a store."""

    def __init__(self, store: Store, txid: str, *, max_bytes: int, max_entries: int | None = None) -> None:
        """Open a staging area; `max_bytes` bounds the sum of file sizes, `max_entries` the number of entries.

        `Busy` when the area holds something already: an ingest is never resumed.
        """
        self.staging = store.stage(txid)
        self.staging.write_back()
        #: Bytes and files that are copied and hashed; read them at any time.
        self.bytes_done = 0
        self.files_done = 0
        self._store = store
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._claimed_bytes = 0
        self._lock = threading.Lock()
        self._cancelled = False
        self._entries: dict[str, Entry | None] = {}
        self._mtimes: dict[str, int] = {}
        self._spool = _Spool(self.staging.path)
        if os.listdir(self.staging.data_fd) or self.staging.sealed():
            self.close()
            raise Busy(f"the staging area {txid} is in use", txid=txid)

    def add_file(self, path: str, fd: int, size: int, executable: bool = False, mtime_ns: int = 0) -> None:
        """Copy a regular file from `fd` to `path`; the caller keeps and closes the descriptor.

        `SourceChanged` when it is not `size` bytes long or changes meanwhile, `NoSpace` beyond the
        reservation, `BadName` for a path that breaks the rules, came before, or lies below a file or link,
        `UnsupportedFile` for anything but a regular file, `UsageError` for a descriptor not open for reading.
        """
        check_path(path)
        before = os.fstat(fd)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_PATH | os.O_WRONLY):
            raise UsageError(f"the descriptor of {path!r} is not open for reading", path=path)
        if not stat.S_ISREG(before.st_mode):
            raise UnsupportedFile(f"{path!r} is not a regular file", path=path)
        if before.st_size != size:
            raise _changed(path, f"it has {before.st_size} bytes, {size} were announced")
        self._claim(path, size)
        with files.translated(path):
            leaves = self._take(path, fd, size, executable, mtime_ns)
            if not size and os.pread(fd, 1, 0):
                raise UnsupportedFile(
                    f"{path!r} says that it is empty and is not, as files of /proc do",
                    hint="put a copy of it into the set",
                    path=path,
                )
        _check_unchanged(path, before, os.fstat(fd))
        self._take_in(path, leaves, size, executable, mtime_ns)

    def add_bundle(self, fd: int, small: Sequence[Small]) -> None:
        """Take in files whose bytes lie in `fd` one after the other, in this order; the caller keeps the descriptor.

        Whoever made the bundle has seen to it that no file changed meanwhile. `UsageError` when the bundle is
        shorter or larger than may be; otherwise as `add_file`.
        """
        data = memoryview(_bundle(fd, sum(entry.size for entry in small)))
        for entry in small:
            check_path(entry.path)
        self._claim_all([(entry.path, entry.size) for entry in small])
        shared_out(self._write_small, cut(data, small))

    def open_file(self, path: str, size: int) -> int:
        """Make a file that somebody else fills, and return its descriptor, which the caller closes.

        Once its `size` bytes are there, `take_file` makes it an entry. `BadName` and `NoSpace` as `add_file`.
        """
        check_path(path)
        self._claim(path, size)
        with files.translated(path), _placed(path):
            fd = tree.create(self.staging.data_fd, path, os.O_RDWR | os.O_EXCL, 0o600)
            if self.staging.tier == "memory":
                files.allocate(fd, size)
            return fd

    def take_file(self, path: str, fd: int, size: int, executable: bool = False, mtime_ns: int = 0) -> None:
        """Hash the file that `open_file` made, now that it is filled. `SourceChanged` when it is too short."""
        with files.translated(path):
            leaves = copying.read_shared(fd, size, self._report)
            os.ftruncate(fd, size)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            os.fchmod(fd, file_mode(executable=executable))
        self._take_in(path, leaves, size, executable, mtime_ns)

    def add_dir(self, path: str, mtime_ns: int = 0) -> None:
        """Make a directory; its parents need no entry of their own."""
        check_path(path)
        self._claim(path, 0)
        with files.translated(path), _placed(path):
            tree.make_directory(self.staging.data_fd, path)
        self._keep(Entry(path=path, kind="dir"), mtime_ns)

    def add_link(self, path: str, target: str, mtime_ns: int = 0) -> None:
        """Make a symbolic link; `UnsupportedFile` when its target is absolute or outside the set."""
        check_path(path)
        check_link(path, target)
        self._claim(path, 0)
        with files.translated(path), _placed(path):
            tree.make_link(self.staging.data_fd, path, target)
        self._keep(Entry(path=path, kind="link", target=target), mtime_ns)

    def seal(self) -> tuple[Manifest, str]:
        """Write manifest, leaves and times beside the tree; return manifest and content id. Call it last."""
        if self.staging.writeback is not None:
            self.staging.writeback.hurry()
        self.staging.made = self._entries.keys()
        with self._lock:
            if unfinished := [path for path, entry in self._entries.items() if entry is None]:
                raise Busy(f"{unfinished[0]!r} is not copied yet", path=unfinished[0])
            manifest = Manifest.build([entry for entry in self._entries.values() if entry is not None])
            with files.translated(self.staging.path):
                data = manifests.encode(manifest)
                self.staging.seal(data, self._spool.in_order(manifest), self._times(manifest))
        faults.point(INGEST_SEALED)
        return manifest, sha256(data).hexdigest()

    def cancel(self) -> None:
        """Make running and later copies end soon with `Busy`; then the caller discards the staging area."""
        self._cancelled = True

    def close(self) -> None:
        """Give the descriptors back. What is staged stays until it is published or discarded."""
        self.staging.close()
        self._spool.close()

    def _take_in(self, path: str, leaves: bytes, size: int, executable: bool, mtime_ns: int) -> None:
        entry = _entry(path, leaves, size, executable)
        with self._lock:
            self._spool.keep(path, leaves)
            self._entries[path] = entry
            self._mtimes[path] = mtime_ns
            self.files_done += 1
        faults.point(INGEST_FILE)

    def _write_small(self, parts: Sequence[tuple[Small, memoryview]]) -> None:
        made: list[tuple[Small, bytes]] = []
        path, allocate = "", self.staging.tier == "memory"
        try:
            with tree.Parents(self.staging.data_fd, make=True) as parents:
                for small, data in parts:
                    self._go_on()
                    path, mode = small.path, file_mode(executable=small.executable)
                    write_new(parents, path, data, mode, mtime_ns=small.mtime_ns, allocate=allocate)
                    made.append((small, hash_leaves(data)))
                    faults.point(INGEST_FILE)
        except OSError as error:
            raise (_misplaced(path) if error.errno in _MISPLACED else files.told(error, path)) from error
        self._keep_small(made)

    def _keep_small(self, made: Sequence[tuple[Small, bytes]]) -> None:
        size = 0
        with self._lock:
            for small, leaves in made:
                self._entries[small.path] = _entry(small.path, leaves, small.size, small.executable)
                self._mtimes[small.path] = small.mtime_ns
                if len(leaves) > DIGEST:
                    self._spool.keep(small.path, leaves)
                size += small.size
            self.files_done += len(made)
            self.bytes_done += size
        if self.staging.writeback is not None:
            self.staging.writeback.wrote(size, len(made))

    def _claim(self, path: str, size: int) -> None:
        self._claim_all([(path, size)])

    def _claim_all(self, wanted: list[tuple[str, int]]) -> None:
        """Claim paths and bytes; the space is given back by the ballast, or looked for, in one step."""
        size = sum(each for _, each in wanted)
        with self._lock:
            for path, each in wanted:
                self._claim_one(path, each)
            if self.staging.ballast is None:
                self._store.require(size)
            self.staging.use(size)

    def _claim_one(self, path: str, size: int) -> None:
        self._go_on()
        if path in self._entries:
            raise BadName(f"{path!r} is there twice", path=path)
        if self._max_entries is not None and len(self._entries) >= self._max_entries:
            raise NoSpace(f"more than the {self._max_entries} entries that were announced")
        if self._claimed_bytes + size > self._max_bytes:
            raise NoSpace(
                f"{path!r} exceeds the {self._max_bytes} bytes that were announced and reserved",
                hint="a file has grown: create the set again",
                bytes_needed=self._claimed_bytes + size,
                bytes_free=self._max_bytes,
            )
        self._claimed_bytes += size
        self._entries[path] = None

    def _take(self, path: str, fd: int, size: int, executable: bool, mtime_ns: int) -> bytes:
        with _placed(path):
            writer = tree.create(self.staging.data_fd, path, os.O_RDWR | os.O_EXCL, 0o600)
        try:
            if self.staging.tier == "disk" and copying.clone(fd, writer):
                if os.fstat(writer).st_size != size:
                    raise _changed(path, "its size changed")
                leaves = copying.read_shared(writer, size, self._report)
            else:
                if self.staging.tier == "memory":
                    files.allocate(writer, size)
                leaves = copying.read_shared(fd, size, self._report, into=writer)
            os.utime(writer, ns=(mtime_ns, mtime_ns))
            os.fchmod(writer, file_mode(executable=executable))
        except SourceChanged as error:
            if "path" in error.details:
                raise
            raise _changed(path, error.message) from error
        finally:
            os.close(writer)
        return leaves

    def _go_on(self) -> None:
        if self._cancelled:
            raise Busy("the creation was cancelled")

    def _report(self, count: int) -> None:
        self._go_on()
        with self._lock:
            self.bytes_done += count

    def _keep(self, entry: Entry, mtime_ns: int) -> None:
        with self._lock:
            self._entries[entry.path] = entry
            self._mtimes[entry.path] = mtime_ns

    def _times(self, manifest: Manifest) -> bytes:
        times = [self._mtimes.get(entry.path, 0) for entry in manifest.entries]
        return encode_mtimes(times)


def _entry(path: str, leaves: bytes, size: int, executable: bool) -> Entry:
    # the only leaf of a small file is its root
    root = leaves if len(leaves) <= DIGEST else copying.root(leaves)
    return Entry(path=path, kind="file", size=size, executable=executable, root=root)


#: What the system says to an entry below a file or a link, or in the place of a directory.
_MISPLACED = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.EINVAL})


@contextmanager
def _placed(path: str) -> Iterator[None]:
    """Turn the OSError for an entry that does not go together with another one into `BadName`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MISPLACED:
            raise
        raise _misplaced(path) from error


def _misplaced(path: str) -> BadName:
    return BadName(
        f"{path!r} does not go together with another entry: only directories have entries below them",
        path=path,
    )


def _bundle(fd: int, size: int) -> bytes:
    """Return the bytes of a bundle, read once: what is hashed is what is written."""
    if size > MOST_BUNDLED:
        raise UsageError(f"a bundle of {size} bytes is too large", hint=f"at most {MOST_BUNDLED} bytes")
    if not stat.S_ISREG(os.fstat(fd).st_mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_PATH | os.O_WRONLY):
        raise UsageError("the descriptor of a bundle is no file open for reading")
    data = b""
    with files.translated("a bundle of small files"):
        while more := os.pread(fd, size - len(data), len(data)):
            data += more
    if len(data) != size:
        raise UsageError(f"a bundle has {len(data)} bytes, its files {size}")
    return data


def _changed(path: str, why: str) -> SourceChanged:
    return SourceChanged(
        f"{path!r} changed while it was read: {why}", hint="create the set once its files rest", path=path
    )


def _check_unchanged(path: str, before: os.stat_result, after: os.stat_result) -> None:
    for what in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"):
        if getattr(before, what) != getattr(after, what):
            raise _changed(path, f"its {what.removeprefix('st_').removesuffix('_ns')} differs")


class _Spool:
    """Leaf digests in order of arrival, in an unnamed file, so that a large set needs little memory."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED, dir=str(directory))  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}

    def keep(self, path: str, leaves: bytes) -> None:
        if len(leaves) > DIGEST:  # the only leaf of a small file is its root
            self._places[path] = (self._file.seek(0, os.SEEK_END), len(leaves))
            self._file.write(leaves)

    def in_order(self, manifest: Manifest) -> Iterator[bytes]:
        parts, held = [], 0
        for entry in manifest.files():
            if entry.size <= LEAF:
                parts.append(entry.root)
                held += len(entry.root)
            else:
                place, length = self._places[entry.path]
                self._file.seek(place)
                parts.append(self._file.read(length))
                held += length
            if held >= _WRITTEN:
                yield b"".join(parts)
                parts, held = [], 0
        yield b"".join(parts)

    def close(self) -> None:
        self._file.close()

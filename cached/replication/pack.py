"""The pack on disk: the small files of a content as one file, made from them and taken apart again; and twins.

Blocking functions for threads. A pack is made under another name and renamed, so a pack that is there is
whole; it is scratch, and may be deleted at any time when no torrent uses it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cached.errors import CachedError, IntegrityFailed, NoSpace
from cached.replication.layout import Pack, describe_pack, packed, twins
from cached.replication.transfer import FetchJob
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import LEAF, hash_leaves, root_from_leaves
from cached.storage.files import write_all
from cached.storage.publication import file_mode
from cached.storage.small import cut, shared_out, write_new
from cached.storage.tree import Parents

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_SUFFIX = ".pack"
_CHUNK = 4 * 1024 * 1024
assert _CHUNK % LEAF == 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Neighbours in a pack, few enough to be held in memory together."""

    #: The first byte in the pack, and how many they are.
    at: int
    size: int
    entries: tuple[Entry, ...]


def path_of(scratch: Path, content: str) -> Path:
    """Return where a content's pack lies."""
    return scratch.absolute() / f"{content}{_SUFFIX}"


def tidy(scratch: Path, keep: Collection[str]) -> None:
    """Make the directory of packs, and delete what lies there of other contents than these."""
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    for leftover in scratch.iterdir():
        if leftover.name.removesuffix(_SUFFIX) not in keep:
            leftover.unlink(missing_ok=True)


def disk_error(error: OSError, doing: str) -> CachedError:
    """Return the error to raise for a failed read or write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left while {doing}", hint="free space, or give the store another partition")
    return CachedError(f"{doing} failed: {error.strerror or error}", hint="check the disk", errno=error.errno)


def make(data: Path, manifest: Manifest, target: Path, piece: int) -> Pack:
    """Write the pack of the files under `data` to `target`; return its digests for such pieces.

    Raises `IntegrityFailed` when a file is not what the manifest says.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    leaves, size = bytearray(), 0
    try:
        with partial.open("wb") as out:
            for block in _blocks(_contents(data, manifest)):
                out.write(block)
                leaves += hash_leaves(block)
                size += len(block)
        partial.rename(target)
    except OSError as error:
        raise disk_error(error, "packing small files") from error
    finally:
        partial.unlink(missing_ok=True)
    return describe_pack(bytes(leaves), size=size, piece=piece)


def complete(pack: Path, job: FetchJob, left: Sequence[Batch]) -> None:
    """Make the files of a job that did not travel by themselves: these batches of the pack, and the twins of others.

    Those that are linked are there, and stay as they are. Raises `IntegrityFailed` when a file in the pack is not what
    the manifest says.
    """
    data = job.data
    if left:
        unpack(pack, job, left)
    for entry, twin in twins(job.manifest):
        if twin.path in job.linked:
            continue
        try:
            with contextlib.suppress(FileNotFoundError):  # an earlier attempt may have left it read-only
                os.unlink(data / twin.path)
            shutil.copyfile(data / entry.path, data / twin.path)
        except OSError as error:
            raise disk_error(error, f"copying {entry.path!r}") from error


def put_in(paths: Collection[str], pack: Path, data: Path, manifest: Manifest) -> None:
    """Write files under `data` that are there to their places in the pack, made when absent.

    Raises `IntegrityFailed`, whose details have the path, when one is not what the manifest says.
    """
    if not any(entry.path in paths for entry in packed(manifest)):
        return
    try:
        with opened(data) as top, Parents(top) as parents, open(pack, "ab"), pack.open("r+b") as out:
            at = 0
            for entry in packed(manifest):
                if entry.path in paths:
                    write_all(out.fileno(), _content(parents, entry), at)
                at += entry.size
    except OSError as error:
        raise disk_error(error, "packing small files") from error


def unpack(pack: Path, job: FetchJob, wanted: Iterable[Batch]) -> None:
    """Write the files of these batches, but for those that are linked, each one checked against its root first.

    Raises `IntegrityFailed` when a file in the pack is not what the manifest says.
    """
    try:
        with pack.open("rb", buffering=0) as source, opened(job.data) as top:
            for batch in wanted:
                data = memoryview(os.pread(source.fileno(), batch.size, batch.at))
                shared_out(partial(_write_out, top, job), cut(data, batch.entries))
    except OSError as error:
        raise disk_error(error, "unpacking small files") from error


def _write_out(top: int, job: FetchJob, parts: Sequence[tuple[Entry, memoryview]]) -> None:
    made = []
    with Parents(top, make=True) as parents:
        for entry, content in parts:
            if entry.path in job.linked:
                continue
            _check(entry, content)
            mode, mtime_ns = file_mode(executable=entry.executable), job.times.get(entry.path)
            write_new(parents, entry.path, content, mode, mtime_ns=mtime_ns, replace=True)
            if mtime_ns is not None:
                made.append(entry.path)
    job.made.update(made)


def batches(manifest: Manifest) -> Iterator[Batch]:
    """Iterate over all that is packed, by neighbours."""
    held: list[Entry] = []
    at = size = 0
    for entry in packed(manifest):
        if held and size + entry.size > _CHUNK:
            yield Batch(at=at, size=size, entries=tuple(held))
            held, at, size = [], at + size, 0
        held.append(entry)
        size += entry.size
    if held:
        yield Batch(at=at, size=size, entries=tuple(held))


def _contents(data: Path, manifest: Manifest) -> Iterator[bytes]:
    """Iterate over the contents of the packed files, many of them joined."""
    with opened(data) as top:
        for batch in batches(manifest):
            found: list[bytes] = [b""] * len(batch.entries)
            shared_out(partial(_read_in, top, found), list(enumerate(batch.entries)))
            yield b"".join(found)


def _read_in(top: int, found: list[bytes], parts: Sequence[tuple[int, Entry]]) -> None:
    with Parents(top) as parents:
        for number, entry in parts:
            found[number] = _content(parents, entry)


def _content(parents: Parents, entry: Entry) -> bytes:
    parent, name = parents.of(entry.path)
    file = os.open(name, _READ, dir_fd=parent)
    try:
        content = os.pread(file, entry.size + 1, 0)
    finally:
        os.close(file)
    _check(entry, content)
    return content


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Open a directory to make and open files below it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(entry: Entry, content: bytes | memoryview) -> None:
    if len(content) != entry.size or root_from_leaves(hash_leaves(content)) != entry.root:
        raise IntegrityFailed(
            f"{entry.path!r} does not match the manifest",
            hint="run `cached verify --repair`",
            path=entry.path,
        )


def _blocks(contents: Iterator[bytes]) -> Iterator[bytes]:
    """Join small contents to blocks of a whole number of leaves; the last one is what is left."""
    buffer = bytearray()
    for content in contents:
        buffer += content
        if len(buffer) >= _CHUNK:
            yield bytes(buffer[:_CHUNK])
            del buffer[:_CHUNK]
    if buffer:
        yield bytes(buffer)

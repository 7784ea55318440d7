"""Files of a content, read and written by leaves: blocking functions for threads of the direct method."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cached.errors import IntegrityFailed
from cached.replication.expected import Expected
from cached.replication.pack import disk_error, opened
from cached.replication.segments import LeafLine, Range, Segment, merged
from cached.replication.transfer import FetchJob, Proved
from cached.sets.merkle import hash_leaves
from cached.storage import tree
from cached.storage.files import write_all
from cached.storage.publication import file_mode
from cached.storage.small import shared_out, write_new
from cached.storage.tree import Parents

_CHUNK = 4 * 1024 * 1024
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def scan(
    data: Path,
    line: LeafLine,
    expected: Expected,
    only: frozenset[str] | None = None,
    whole: frozenset[str] = frozenset(),
    proved: Proved | None = None,
) -> list[Range]:
    """Return the leaves that are not under `data`, or not right there; files that are too long are cut.

    `only` names the files to look at; None: all of them. Those of `whole` are known to be right, and not touched.
    `proved` is told the leaves of what is right.
    """
    whole_line = [(0, line.total)] if line.total else []
    try:
        if only is None and not whole and _is_bare(data):
            return whole_line
        segments = line.segments(whole_line)
        wanted = (
            segment
            for segment in segments
            if (only is None or segment.path in only) and segment.path not in whole
        )
        present = _Present(data)
        return merged(
            part
            for segment in wanted
            for part in (
                _missing(data, segment, expected, proved)
                if present.has(segment.path)
                else ((segment.leaf, segment.end),)
            )
        )
    except OSError as error:
        raise disk_error(error, "checking what is there") from error


def _is_bare(data: Path) -> bool:
    """Tell whether there is no file yet, but for empty ones."""
    with opened(data) as top:
        return not any(
            entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size
            for _, _, entries in tree.walk(top)
            for entry in entries
        )


class _Present:
    """Which files are there; one listing tells it of all files of a directory."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folder = ""
        self._names: frozenset[str] | None = None

    def has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if self._names is None or folder != self._folder:
            try:
                self._names = frozenset(os.listdir(self._data / folder))
            except FileNotFoundError:
                self._names = frozenset()
            self._folder = folder
        return name in self._names


def _missing(data: Path, segment: Segment, expected: Expected, proved: Proved | None) -> Iterator[Range]:
    """Iterate over the wrong leaves of a whole file; one that was made whole, and is not right, is taken away."""
    path = data / segment.path
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        yield segment.leaf, segment.end
        return
    try:
        facts = os.fstat(file)
        wrong = list(_wrong(file, segment, expected, proved))
        if (wrong or facts.st_size > segment.size) and _is_finished(facts):
            os.unlink(path)
            wrong = [(segment.leaf, segment.end)]
        elif facts.st_size > segment.size:
            os.truncate(path, segment.size)
    finally:
        os.close(file)
    yield from wrong


def _wrong(file: int, segment: Segment, expected: Expected, proved: Proved | None) -> Iterator[Range]:
    at, done = segment.leaf, 0
    while chunk := os.pread(file, min(_CHUNK, segment.size - done), done):
        whole = segment.whole if len(chunk) == segment.size else None
        part, found = Segment(segment.path, done, len(chunk), at, whole), hash_leaves(chunk)
        parts = [(part, found)] if expected.right(part, found) else expected.units(part, found)
        for one, leaves in parts:
            if not expected.right(one, leaves):
                yield one.leaf, one.end
            elif proved is not None:
                proved(one.path, one.offset, leaves)
        at, done = part.end, done + len(chunk)
    if at < segment.end:
        yield at, segment.end


def _is_finished(facts: os.stat_result) -> bool:
    """Tell whether a file is not to be written to: it has its final mode, or belongs to others as well."""
    return facts.st_nlink > 1 or not facts.st_mode & stat.S_IWUSR


def write_block(job: FetchJob, expected: Expected, block: list[tuple[Segment, memoryview]]) -> None:
    """Check the bytes of each segment and write them; raise `IntegrityFailed` at a wrong file.

    Many segments are written by two threads: small files take longer to make than to fill.
    """
    with opened(job.data) as top:
        shared_out(partial(_write_all, top, job, expected), block)


def write_alone(job: FetchJob, expected: Expected, block: list[tuple[Segment, memoryview]]) -> None:
    """Do as `write_block`, but in this thread: other blocks are written by others meanwhile."""
    with opened(job.data) as top:
        _write_all(top, job, expected, block)


def _write_all(
    top: int, job: FetchJob, expected: Expected, block: Sequence[tuple[Segment, memoryview]]
) -> None:
    path, times, made = "", job.times, []
    try:
        with Parents(top, make=True) as parents:
            for segment, content in block:
                path, found = segment.path, hash_leaves(content)
                if not expected.right(segment, found):
                    raise IntegrityFailed(f"{path!r} does not match", path=path)
                if segment.whole is None:
                    _write(parents, segment, content)
                else:
                    mode, mtime_ns = file_mode(executable=segment.whole.executable), times.get(path)
                    write_new(parents, path, content, mode, mtime_ns=mtime_ns, replace=True)
                    if mtime_ns is not None:
                        made.append(path)
                if job.proved is not None:
                    job.proved(path, segment.offset, found)
        job.made.update(made)
    except OSError as error:
        raise disk_error(error, f"writing {path!r}") from error


def _write(parents: Parents, segment: Segment, content: memoryview) -> None:
    parent, name = parents.of(segment.path)
    descriptor = os.open(name, _WRITE, 0o644, dir_fd=parent)
    try:
        write_all(descriptor, content, segment.offset)
    finally:
        os.close(descriptor)


def read_blocks(
    open_dir: Callable[[], int], segments: Iterable[Segment], block: int
) -> Generator[bytes, None, None]:
    """Iterate over the bytes of the segments, joined to blocks of at least `block` bytes but for the last.

    Raises `IntegrityFailed` when a file is shorter than the manifest says, and closes the directory in any
    case.
    """
    directory = open_dir()
    try:
        parts: list[bytes] = []
        held = 0
        for segment in segments:
            for part in _read(directory, segment, block):
                parts.append(part)
                held += len(part)
                if held >= block:
                    yield b"".join(parts)
                    parts, held = [], 0
        if held:
            yield b"".join(parts)
    except OSError as error:
        raise disk_error(error, "reading for a peer") from error
    finally:
        os.close(directory)


def _read(directory: int, segment: Segment, block: int) -> Iterator[bytes]:
    descriptor = os.open(segment.path, _READ, dir_fd=directory)
    try:
        offset, end = segment.offset, segment.offset + segment.size
        while offset < end:
            part = os.pread(descriptor, min(block, end - offset), offset)
            if not part:
                raise IntegrityFailed(f"{segment.path!r} is too short", path=segment.path)
            yield part
            offset += len(part)
    finally:
        os.close(descriptor)

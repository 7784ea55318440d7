"""Python objects without files: pickles whose large buffers lie behind them, aligned, to be mapped and not read.

The layout (docs/objects.md) is that of version 1; all numbers are little-endian u64:

    0    magic, 8 bytes
    8    version
    16   length of the whole
    24   offset of the pickle (protocol 5), a multiple of 64
    32   length of the pickle
    40   number of buffers
    48   16 bytes of zeros
    64   offset and length of each buffer, in the order of the pickle; offsets are multiples of 64
"""

from __future__ import annotations

import io
import mmap
import operator
import os
import pickle
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from cached.errors import CachedError, IntegrityFailed, UsageError

MAGIC: Final = b"cachedpk"
VERSION: Final = 1
#: Everything begins at a multiple of so many bytes: a cache line, and what Arrow recommends.
ALIGNMENT: Final = 64
_HEAD: Final = struct.Struct("<8sQQQQQ16x")
_ENTRY: Final = struct.Struct("<QQ")
#: Parts given to one system call, at most (`IOV_MAX` is 1024).
_MOST_PARTS: Final = 512
_MOST_BUFFERS: Final = 1 << 24

assert _HEAD.size == ALIGNMENT


#: A dump in parts, to be written one after the other.
Parts = list[bytes | memoryview]


def pickled(obj: Any) -> tuple[Parts, int]:
    """Pickle an object; return the dump, large buffers in it being the object's own memory, and its length in bytes.

    Raises `UsageError` for what cannot be pickled.
    """
    found: list[pickle.PickleBuffer] = []
    body = io.BytesIO()
    try:
        _Pickler(body, protocol=5, buffer_callback=found.append).dump(obj)
        buffers = [each.raw() for each in found]
    except (pickle.PicklingError, TypeError, AttributeError, BufferError, RecursionError) as error:
        raise UsageError(f"this object cannot be pickled: {error}") from error
    parts = _laid_out(body.getvalue(), buffers)
    return parts, sum(map(_size, parts))


class _Pickler(pickle.Pickler):
    """Has numpy's arrays laid out as buffers too that numpy itself would write into the pickle.

    Those are arrays that lie with gaps or backwards in memory, and times, which numpy exports no buffer of. What is
    written needs numpy alone to be read.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is to be pickled; `NotImplemented`: as ever."""
        numpy = sys.modules.get("numpy")
        if numpy is None or type(obj) is not numpy.ndarray:
            return NotImplemented
        if obj.dtype.kind in "mM":
            numbers = numpy.asarray(obj, order="K").view("i8")
            return operator.methodcaller("view", obj.dtype.str), (numbers,)
        if obj.dtype.kind in "biufcSUV" and not obj.dtype.hasobject and not obj.flags.forc:
            return numpy.ascontiguousarray(obj).__reduce_ex__(5)
        return NotImplemented


def load_from(descriptor: int, size: int) -> Any:
    """Unpickle what lies in a file: buffers become read-only views of shared memory.

    The map lasts as long as any view of it; the descriptor may be closed. Unpickling runs code: the caller has made
    sure whose. Raises `IntegrityFailed` for a file that is no dump.
    """
    if size < _HEAD.size:
        raise _broken("it is too short")
    try:
        mapped = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise CachedError(
            f"the object cannot be mapped: {error}", hint="ulimit -v, vm.max_map_count"
        ) from error
    return load_view(memoryview(mapped))


def load_view(view: memoryview) -> Any:
    """Unpickle what lies in memory; see `load_from`."""
    whole = view.toreadonly()
    body, buffers = _taken_apart(whole)
    return pickle.loads(body, buffers=buffers)  # noqa: S301  the caller has made sure whose it is


def _laid_out(body: bytes, buffers: Sequence[memoryview]) -> Parts:
    """Return the file as parts: head, table, pickle, buffers, with what fills up to the next boundary between."""
    at = _aligned(_HEAD.size + _ENTRY.size * len(buffers))
    start = at
    at += len(body)
    table = []
    for each in buffers:
        at = _aligned(at)
        table.append(_ENTRY.pack(at, each.nbytes))
        at += each.nbytes
    head = _HEAD.pack(MAGIC, VERSION, at, start, len(body), len(buffers))
    parts: Parts = []
    length = 0
    for part in (head, b"".join(table)):
        parts.append(part)
        length += len(part)
    chunks: Parts = [body, *buffers]
    for data in chunks:
        parts += [bytes(_aligned(length) - length), data]
        length = _aligned(length) + _size(data)
    assert length == at
    return parts


def _taken_apart(whole: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle and its buffers. Raises `IntegrityFailed` when anything lies outside of the file."""
    if whole.nbytes < _HEAD.size:
        raise _broken("it is too short")
    magic, version, length, start, count, buffers = _HEAD.unpack_from(whole)
    if magic != MAGIC:
        raise _broken("it was not written by cached.dump")
    if version != VERSION:
        raise UsageError(f"the object is a dump of version {version}", hint="a newer cached reads it")
    if length != whole.nbytes or buffers > _MOST_BUFFERS or _HEAD.size + _ENTRY.size * buffers > length:
        raise _broken("its length is not what it says")
    body = _slice(whole, start, count)
    table = whole[_HEAD.size : _HEAD.size + _ENTRY.size * buffers]
    return body, [_slice(whole, at, size) for at, size in _ENTRY.iter_unpack(table)]


def _slice(whole: memoryview, at: int, size: int) -> memoryview:
    if at % ALIGNMENT or at < _HEAD.size or at + size > whole.nbytes:
        raise _broken("a part of it lies outside")
    return whole[at : at + size]


def write(descriptor: int, parts: Parts) -> int:
    """Write a dump into an empty file from its beginning, and return its length in bytes."""
    views = [memoryview(part).cast("B") for part in parts if _size(part)]
    total = at = 0
    while at < len(views):
        done = os.pwritev(descriptor, views[at : at + _MOST_PARTS], total)
        total += done
        while at < len(views) and done >= views[at].nbytes:
            done -= views[at].nbytes
            at += 1
        if done:
            views[at] = views[at][done:]
    return total


def _size(part: bytes | memoryview) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def _broken(why: str) -> IntegrityFailed:
    return IntegrityFailed(f"the object is no dump: {why}", hint="read it with cached.open")

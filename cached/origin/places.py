"""Where the files of a content lie in the origin, pinned: what lets any node read a set's bytes from there.

It is kept beside the manifest and travels with it, as msgpack. It says where to look, never what is right: bytes are
checked against the manifest, whoever they come from.
"""

from __future__ import annotations

import msgspec

from cached.addresses import Prefix
from cached.errors import IntegrityFailed
from cached.origin.naming import Plan
from cached.origin.values import Pinned
from cached.sets.manifest import Manifest

#: Longest form, in bytes: for each file, and besides.
_PER_FILE = 16
_HEAD = 2048
#: Version of the form.
FORMAT = 1


class Places(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One object for each file of a manifest, in its canonical order; the object's name is `base` and the path."""

    format: int = FORMAT
    bucket: str
    base: str
    generations: tuple[int, ...]
    checksums: tuple[int, ...]

    def pinned(self, manifest: Manifest) -> dict[str, Pinned]:
        """Return the object of each file, by path."""
        files = zip(manifest.files(), self.generations, self.checksums, strict=True)
        return {
            entry.path: Pinned(self.bucket, self.base + entry.path, generation, entry.size, crc32c)
            for entry, generation, crc32c in files
        }

    @property
    def prefix(self) -> Prefix:
        """Where all of it lies."""
        return Prefix(self.bucket, self.base)


def of_plan(plan: Plan, manifest: Manifest) -> Places:
    """Return where the files of a manifest lie that was made by a plan."""
    return of_objects(plan.bucket, plan.base, plan.files, manifest)


def of_objects(bucket: str, base: str, objects: dict[str, Pinned], manifest: Manifest) -> Places:
    """Return where the files of a manifest lie; `objects` has one for each path."""
    found = [objects[entry.path] for entry in manifest.files()]
    return Places(
        bucket=bucket,
        base=base,
        generations=tuple(one.generation for one in found),
        checksums=tuple(one.crc32c for one in found),
    )


def longest(files: int) -> int:
    """Return how many bytes the form of so many files has at most."""
    return _HEAD + files * _PER_FILE


def encode(places: Places) -> bytes:
    """Return the form that is kept and travels."""
    return msgspec.msgpack.encode(places)


def decode(data: bytes, manifest: Manifest) -> Places:
    """Read it back; raises `IntegrityFailed` for anything that does not belong to this manifest."""
    try:
        places = msgspec.msgpack.decode(data, type=Places)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityFailed("where the files lie in the origin cannot be read") from error
    count = manifest.file_count
    if places.format != FORMAT or (len(places.generations), len(places.checksums)) != (count, count):
        raise IntegrityFailed("where the files lie in the origin does not fit the manifest")
    return places

"""How a set is kept in the origin: one prefix holds one set, as plain objects and the facts that make them a set.

P/<path>               each file, with its own bytes, for people and other tools
P/.cached/manifest     the canonical manifest: links, empty directories and executable bits are in it
P/.cached/leaves       the digests of all 16 KiB leaves, as `cached.sets.leaves` has them
P/.cached/mtimes       the modification times, when they are known
P/.cached/places       the generation and checksum of each file's object (`cached.origin.places`)
P/.cached/set          JSON, written last: there is a set once it is there, and all of it
"""

from __future__ import annotations

from typing import Final

import msgspec

from cached.errors import IntegrityFailed
from cached.origin.naming import DOCUMENT, KEPT
from cached.origin.values import Pinned

#: Parts beside the files, in the order in which they are written.
PARTS: Final = ("manifest", "leaves", "mtimes", "places")
#: Longest document, in bytes.
MOST: Final = 64 * 1024
FORMAT: Final = 1


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One object beside the files."""

    generation: int
    size: int
    crc32c: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a set in the origin is."""

    format: int = FORMAT
    #: Content id.
    content: str
    bytes: int
    files: int
    parts: dict[str, Part]

    def pinned(self, bucket: str, base: str, part: str) -> Pinned:
        """Return the object that holds a part."""
        facts = self.parts[part]
        return Pinned(bucket, part_name(base, part), facts.generation, facts.size, facts.crc32c)


def part_name(base: str, part: str) -> str:
    """Return the name of the object that holds a part."""
    return f"{base}{KEPT}{part}"


def name(base: str) -> str:
    """Return the name of the document's object."""
    return f"{base}{DOCUMENT}"


def encode(document: Document) -> bytes:
    """Return the document's bytes, which are the same for the same set in the same objects."""
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Document:
    """Read it back; raises `IntegrityFailed`, naming `where` it was, for what is no document of this version."""
    try:
        document = msgspec.json.decode(data, type=Document)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IntegrityFailed(f"{where} does not describe a set: {error}") from error
    missing = {"manifest", "leaves", "places"} - document.parts.keys()
    if document.format != FORMAT or missing:
        raise IntegrityFailed(
            f"{where} is of another version of this program", hint="bring this node up to date"
        )
    return document

"""The manifest: what a content consists of, in one canonical form whose SHA-256 is the content id.

Canonical form, version 1, UTF-8, lines end in LF, entries sorted by the bytes of their path:

    cached-manifest 1
    d <path>
    f <-|x> <size> <root> <path>
    l <bytes in path> <path> <target>

`size` is decimal bytes; `root` is the BEP 52 merkle root over 16 KiB SHA-256 leaves in 64 hex digits, `-` for an empty file;
`x` marks an executable file. Names hold no control characters, so a line is an entry. Every directory but the root has its
own line, also when it has children.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file, directory or symbolic link of a set."""

    #: Relative, `/`-separated, valid UTF-8, kept as it is.
    path: str
    kind: Literal["file", "dir", "link"]
    size: int = 0
    executable: bool = False
    #: 32 bytes; empty for empty files, directories and links.
    root: bytes = b""
    #: Of a link: relative, inside the set.
    target: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All entries of a content, in canonical order."""

    entries: tuple[Entry, ...]

    def files(self) -> Iterator[Entry]:
        """Iterate over regular files in canonical order."""
        return (entry for entry in self.entries if entry.kind == "file")

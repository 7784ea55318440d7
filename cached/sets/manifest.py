"""The manifest: what a content consists of, in one canonical form whose SHA-256 is the content id.

Canonical form, version 1, UTF-8, lines end in LF, entries sorted by the bytes of their path:

    cached-manifest 1
    d <path>
    f <-|x> <size> <root> <path>
    l <bytes in path> <path> <target>

`size` is decimal bytes; `root` is the BEP 52 merkle root over 16 KiB SHA-256 leaves in 64 hex digits, `-` for
an empty file; `x` marks an executable file. Names hold no control characters, so a line is an entry. Every
directory but the root has its own line, also when it has children. `docs/manifest.md` has a test vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from typing import Final, Literal

import msgspec

from cached.errors import BadName, CachedError, IntegrityFailed, UnsupportedFile, UsageError
from cached.sets.merkle import DIGEST
from cached.sets.paths import check_links, check_paths
from cached.units import MAX_SIZE

#: First line of the canonical form.
HEADER: Final = b"cached-manifest 1\n"
#: Largest canonical form that is read, in bytes: several million entries.
MAX_MANIFEST: Final = 512 * 1024**2


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All entries of a content, in canonical order; made by `build` or `decode`, which check them."""

    entries: tuple[Entry, ...]

    @staticmethod
    def build(entries: Iterable[Entry]) -> Manifest:
        """Return the manifest of these entries, sorted, with the directories that they imply.

        Raises `BadName` for a path that is unfit, twice there, or below a file or link; `UnsupportedFile` for
        a link that leads outside; `UsageError` for an entry that contradicts itself.
        """
        given = list(entries)
        by_path = {entry.path: entry for entry in given}
        check_paths(by_path)
        if len(by_path) < len(given):
            [(twice, _)] = Counter(entry.path for entry in given).most_common(1)
            raise BadName(f"path {twice!r} is there twice")
        for entry in given:
            _check_facts(entry)
        for folder in {path.rpartition("/")[0] for path in by_path}:
            _add_parents(by_path, folder)
        check_links({entry.path: entry.target for entry in given if entry.kind == "link"})
        manifest = Manifest(entries=tuple([by_path[path] for path in sorted(by_path)]))
        if manifest.total_bytes > MAX_SIZE:
            raise UsageError("the sizes of all files add up to more than a number can hold")
        return manifest

    def files(self) -> Iterator[Entry]:
        """Iterate over regular files in canonical order."""
        return (entry for entry in self.entries if entry.kind == "file")

    @cached_property
    def total_bytes(self) -> int:
        """Sum of the sizes of all files."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def file_count(self) -> int:
        """Number of regular files."""
        return sum(entry.kind == "file" for entry in self.entries)


def _check_facts(entry: Entry) -> None:
    if entry.kind == "file" and 0 < entry.size <= MAX_SIZE and len(entry.root) == DIGEST and not entry.target:
        return  # most are
    of_file = entry.size or entry.executable or entry.root
    root_bytes = DIGEST if entry.size else 0
    if (
        not 0 <= entry.size <= MAX_SIZE
        or len(entry.root) != root_bytes
        or (entry.kind != "file" and of_file)
        or (entry.kind != "link" and entry.target)
    ):
        raise UsageError(f"the entry {entry.path!r} contradicts itself")


def _add_parents(by_path: dict[str, Entry], path: str) -> None:
    """Add the directory that has entries, and those above it, where they are not there."""
    while path:
        parent = by_path.get(path)
        if parent is None:
            by_path[path] = Entry(path=path, kind="dir")
        elif parent.kind != "dir":
            raise BadName(f"{path!r} is a {parent.kind} and has entries below it")
        else:
            return
        path = path.rpartition("/")[0]


def encode(manifest: Manifest) -> bytes:
    """Return the canonical form."""
    return HEADER + b"".join([_encode_entry(entry) for entry in manifest.entries])


def _encode_entry(entry: Entry) -> bytes:
    if entry.kind == "file":
        mark, root = "x" if entry.executable else "-", entry.root.hex() or "-"
        return f"f {mark} {entry.size} {root} {entry.path}\n".encode()
    if entry.kind == "dir":
        return f"d {entry.path}\n".encode()
    return f"l {len(entry.path.encode())} {entry.path} {entry.target}\n".encode()


def decode(data: bytes) -> Manifest:
    """Read a canonical form; raises `IntegrityFailed` for anything that `encode` would not have written."""
    if not data.startswith(HEADER) or not data.endswith(b"\n") or len(data) > MAX_MANIFEST:
        raise IntegrityFailed("this is not a manifest of version 1", bytes=len(data))
    try:
        lines = data[len(HEADER) :].decode().split("\n")[:-1]
        manifest = Manifest.build([_decode_entry(line) for line in lines])
    except (ValueError, BadName, UnsupportedFile, UsageError) as error:
        reason = error.message if isinstance(error, CachedError) else "a line does not fit"
        raise IntegrityFailed(f"the manifest is broken: {reason}") from error
    if encode(manifest) != data:
        raise IntegrityFailed("the manifest is not in canonical form")
    return manifest


def _decode_entry(line: str) -> Entry:
    if line.startswith("f "):
        _, mark, size, root, path = line.split(" ", 4)
        digest = b"" if root == "-" else bytes.fromhex(root)
        return Entry(path=path, kind="file", size=_number(size), executable=mark == "x", root=digest)
    if line.startswith("d "):
        return Entry(path=line[2:], kind="dir")
    if line.startswith("l "):
        _, digits, names = line.split(" ", 2)
        length, encoded = _number(digits), names.encode()
        return Entry(path=encoded[:length].decode(), kind="link", target=encoded[length + 1 :].decode())
    raise ValueError("unknown kind of entry")


def _number(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError("a number is too long")
    return int(digits)


def content_id(canonical: bytes) -> str:
    """Return the content id of a canonical form: its SHA-256 in 64 hex digits."""
    return sha256(canonical).hexdigest()

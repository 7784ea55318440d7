"""The torrent of a content, built from its manifest and leaf digests alone: no byte of the content is read.

A rule, free of I/O. The torrent is BitTorrent v2, private, and carries opaque names (`000000`, `000001`, …
under the content id); the manifest has the real ones, so names that BitTorrent would rewrite never reach it.
Files below `PACK_BELOW` travel in one file, the *pack*: their bytes one after the other in canonical order.
(Each v2 file starts a piece; a hundred thousand tiny files would be a hundred thousand pieces.) Of larger files with
the same bytes only the first travels, the receiver copies its *twins*: less to send, and libtorrent confuses files of
one root. A torrent of exactly one file is named by the content id too, because BitTorrent knows no directory then.
Empty files, directories and links are the manifest's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cached.errors import IntegrityFailed
from cached.sets.coarse import Coarse
from cached.sets.digests import Digests, unit_of
from cached.sets.leaves import LeafIndex, split_leaves
from cached.sets.manifest import Entry, Manifest
from cached.sets.merkle import DIGEST, piece_layer, root_from_leaves, root_over

#: Files smaller than this many bytes travel in the pack.
PACK_BELOW = 64 * 1024

_SMALLEST_PIECE = 64 * 1024
_LARGEST_PIECE = 128 * 1024 * 1024
#: Above this, pieces are as small as the number of pieces allows.
_COMFORTABLE_PIECE = 1024 * 1024
_PIECES_PER_NODE = 400
_MOST_PIECES = 32_768


def piece_size(total_bytes: int, receivers: int) -> int:
    """Return the piece size in bytes for a content of `total_bytes` that goes to `receivers` nodes at once.

    The power of two nearest to total / (400 × receivers), from 64 KiB to 1 MiB (measured: small pieces are
    shared on early); larger only where the content would have more than 32768 pieces.
    """
    ideal = total_bytes / (_PIECES_PER_NODE * max(1, receivers))
    size = _SMALLEST_PIECE
    while size < _COMFORTABLE_PIECE and size * 2**0.5 < ideal:
        size *= 2
    while size < _LARGEST_PIECE and size * _MOST_PIECES < total_bytes:
        size *= 2
    return size


def packed(manifest: Manifest) -> Iterator[Entry]:
    """Iterate over the files that travel in the pack, in the order of their bytes there."""
    return (entry for entry in manifest.files() if 0 < entry.size < PACK_BELOW)


def pack_bytes(manifest: Manifest) -> int:
    """Return the size of the pack: what a member of the swarm needs on disk besides the content itself."""
    return sum(entry.size for entry in packed(manifest))


def twins(manifest: Manifest) -> Iterator[tuple[Entry, Entry]]:
    """Iterate over the files that do not travel, each after the file in the torrent that has the same bytes."""
    first: dict[bytes, Entry] = {}
    for entry in manifest.files():
        if entry.size >= PACK_BELOW and first.setdefault(entry.root, entry) is not entry:
            yield first[entry.root], entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """The digests of a content's pack."""

    size: int
    #: Merkle root, 32 bytes.
    root: bytes
    #: Digests of its pieces, 32 bytes each; empty when it has only one.
    layer: bytes


def describe_pack(leaves: bytes, *, size: int, piece: int) -> Pack:
    """Return the digests of a pack of `size` bytes from its leaf digests."""
    return Pack(size=size, root=root_from_leaves(leaves), layer=piece_layer(leaves, piece))


@dataclass(frozen=True, kw_only=True, slots=True)
class TorrentFile:
    """One file of the torrent."""

    name: str
    #: In the manifest; empty for the pack.
    path: str
    size: int
    root: bytes
    layer: bytes

    def piece_sizes(self, piece: int) -> Iterator[int]:
        """Iterate over the bytes in each of its pieces."""
        return (min(piece, self.size - at) for at in range(0, self.size, piece))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A content as a torrent."""

    content: str
    piece_size: int
    #: In torrent order; none when the content has no bytes at all.
    files: tuple[TorrentFile, ...]

    @cached_property
    def info(self) -> bytes:
        """The bencoded info dictionary, whose SHA-256 names the swarm."""
        tree = {
            file.name.encode(): {b"": {b"length": file.size, b"pieces root": file.root}}
            for file in self.files
        }
        return bencode(
            {
                b"file tree": tree,
                b"meta version": 2,
                b"name": self.content.encode(),
                b"piece length": self.piece_size,
                b"private": 1,
            }
        )

    @cached_property
    def info_hash(self) -> str:
        """The v2 info-hash, 64 hex digits; empty for a content without bytes."""
        return hashlib.sha256(self.info).hexdigest() if self.files else ""

    @cached_property
    def torrent(self) -> bytes:
        """The bytes of the `.torrent` file."""
        layers = {file.root: file.layer for file in self.files if file.layer}
        return b"d4:info" + self.info + b"12:piece layers" + bencode(layers) + b"e"

    @cached_property
    def piece_sizes(self) -> tuple[int, ...]:
        """Bytes of content in each piece; a file's last piece is short."""
        return tuple(size for file in self.files for size in file.piece_sizes(self.piece_size))

    @cached_property
    def piece_places(self) -> tuple[tuple[str, int, int], ...]:
        """Of each piece the manifest path, empty for the pack, and from which byte to which (exclusive) of the file."""
        return tuple(
            (file.path, at, min(at + self.piece_size, file.size))
            for file in self.files
            for at in range(0, file.size, self.piece_size)
        )

    @property
    def file_paths(self) -> dict[int, str]:
        """Manifest paths by libtorrent's file index: after a file that ends inside a piece comes a pad."""
        paths, index = {}, 0
        for file in self.files:
            paths[index] = file.path
            index += 2 if file.size % self.piece_size else 1
        return paths

    @property
    def pack(self) -> Pack | None:
        """The pack's digests, when there is one."""
        for file in self.files:
            if not file.path:
                return Pack(size=file.size, root=file.root, layer=file.layer)
        return None


def build(content: str, manifest: Manifest, digests: Digests, piece: int, pack: Pack | None) -> Layout:
    """Build the layout from the leaves, or for pieces that are no smaller than its spans from the coarse digests.

    Raises `IntegrityFailed` when digests and manifest, or pack and manifest, disagree. Costs one SHA-256 for each
    digest: run it in a thread for large contents.
    """
    files: list[TorrentFile] = []
    double = {twin.path for _, twin in twins(manifest)}
    for entry, layer in _layers(content, manifest, digests, piece):
        if entry.size >= PACK_BELOW and entry.path not in double:
            name = f"{len(files):06d}"
            files.append(
                TorrentFile(name=name, path=entry.path, size=entry.size, root=entry.root, layer=layer)
            )
    check_pack(manifest, piece, pack)
    if pack is not None and pack.size:
        files.append(TorrentFile(name="pack", path="", size=pack.size, root=pack.root, layer=pack.layer))
    if len(files) == 1:
        only = files[0]
        files = [TorrentFile(name=content, path=only.path, size=only.size, root=only.root, layer=only.layer)]
    return Layout(content=content, piece_size=piece, files=tuple(files))


def _layers(content: str, manifest: Manifest, digests: Digests, piece: int) -> Iterator[tuple[Entry, bytes]]:
    """Iterate over the files with their piece layers, each of which was found to belong to the file's root."""
    unit = unit_of(digests)
    if not isinstance(digests, Coarse) and len(digests) != LeafIndex(manifest).total:
        raise IntegrityFailed("the leaf digests do not fit the manifest", content=content)
    found = digests.split(manifest) if isinstance(digests, Coarse) else split_leaves(manifest, digests)
    for entry, part in found:
        if entry.size < PACK_BELOW:
            yield entry, b""
            continue
        layer = piece_layer(part, piece, unit)
        # one that has no coarse digests is named by its root alone
        root = root_over(layer, piece) if layer else root_over(part, unit) if part else entry.root
        if root != entry.root:
            raise IntegrityFailed(
                f"the digests of {entry.path!r} do not match its root", path=entry.path, content=content
            )
        yield entry, layer


def check_pack(manifest: Manifest, piece: int, pack: Pack | None) -> None:
    """Raise `IntegrityFailed` unless a pack could be this manifest's; its bytes are checked when it is taken apart."""
    wanted = pack_bytes(manifest)
    if not wanted and pack is None:
        return
    pieces = -(-wanted // piece)
    expected = pieces * DIGEST if pieces > 1 else 0
    if pack is None or pack.size != wanted or len(pack.layer) != expected or len(pack.root) != DIGEST:
        raise IntegrityFailed("the pack does not fit the manifest")
    if pack.layer and root_over(pack.layer, piece) != pack.root:
        raise IntegrityFailed("the pack's piece digests do not match its root")


def bencode(value: Any) -> bytes:
    """Encode integers, bytes and dictionaries with bytes keys, as BEP 3 says."""
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"i%de" % value

"""Merkle trees over a file's bytes, exactly as BitTorrent v2 (BEP 52) has them.

A leaf is the SHA-256 of 16 KiB of the file; the last leaf covers what is left, unpadded. Above the leaves
the tree is binary, and leaves beyond the end of the file are 32 zero bytes. The root therefore depends on the
bytes alone, not on a piece size. Leaves are kept concatenated: 32 bytes for each 16 KiB, 0.2 % of the file.
An empty file has none, and no root.

Hashing releases the interpreter's lock at each leaf, so threads hash in parallel.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Final

#: Bytes of the file under one leaf.
LEAF: Final = 16_384
#: Bytes of one digest.
DIGEST: Final = 32

Buffer = bytes | bytearray | memoryview


def leaf_count(size: int) -> int:
    """Return how many leaves a file of `size` bytes has."""
    return -(-size // LEAF)


def hash_leaves(data: Buffer) -> bytes:
    """Return the concatenated leaves of `data`.

    `data` is a whole file, or a part of one that starts at a multiple of `LEAF` and, unless it is the last,
    ends at one: the leaves of the parts, concatenated, are the leaves of the file.
    """
    view = memoryview(data)
    if 0 < view.nbytes <= LEAF:
        return sha256(view).digest()
    flat = view.cast("B")
    return b"".join([sha256(flat[at : at + LEAF]).digest() for at in range(0, len(flat), LEAF)])


def root_from_leaves(leaves: Buffer) -> bytes:
    """Return the root over concatenated leaves: what BEP 52 calls `pieces root`; empty for no leaves."""
    return root_over(leaves, LEAF)


def piece_layer(digests: Buffer, piece_size: int, unit: int = LEAF) -> bytes:
    """Return the concatenated roots of a file's pieces; empty for a file that fits into one piece.

    `digests` are the file's leaves, or its piece layer for pieces of `unit` bytes. `piece_size` is `unit`, and `unit`
    16 KiB, times a power of two. This is the file's entry in a torrent's `piece layers`, which names only files larger
    than a piece. Raises `ValueError` for other sizes.
    """
    layer = span_roots(digests, piece_size, unit)
    return layer if len(memoryview(digests)) > piece_size // unit * DIGEST else b""


def span_roots(digests: Buffer, span: int, unit: int = LEAF) -> bytes:
    """Return the concatenated roots over each `span` bytes, of which the last may be short.

    `digests` stand for `unit` bytes each, as those of `piece_layer` do, from the beginning of any span on. Raises
    `ValueError` when `span` is not `unit` times a power of two.
    """
    per_span = span // unit
    if span % unit or per_span & (per_span - 1) or per_span < 1:
        raise ValueError(f"{span} is not {unit} times a power of two")
    layer, pad = bytes(digests), empty_root(unit)
    while per_span > 1:
        layer, pad = _layer_above(layer, pad)
        per_span //= 2
    return layer


def root_over(layer: Buffer, span: int) -> bytes:
    """Return the root of a file from the roots over each `span` bytes of it; those beyond its end count as empty."""
    nodes, pad = bytes(layer), empty_root(span)
    while len(nodes) > DIGEST:
        nodes, pad = _layer_above(nodes, pad)
    return nodes


@cache
def empty_root(size: int) -> bytes:
    """Return the digest that stands for `size` bytes beyond the end of a file: 16 KiB times a power of two."""
    digest = bytes(DIGEST)
    for _ in range((size // LEAF).bit_length() - 1):
        digest = sha256(digest + digest).digest()
    return digest


def _layer_above(layer: bytes, pad: bytes) -> tuple[bytes, bytes]:
    """Return the next layer up, and the digest that stands for an empty subtree of its height."""
    if len(layer) % (2 * DIGEST):
        layer += pad
    pairs = range(0, len(layer), 2 * DIGEST)
    return b"".join([sha256(layer[at : at + 2 * DIGEST]).digest() for at in pairs]), sha256(
        pad + pad
    ).digest()


def check_leaves(leaves: Buffer, size: int, root: bytes) -> bool:
    """Say whether these are the leaves of the file of `size` bytes that has this root."""
    return len(memoryview(leaves)) == leaf_count(size) * DIGEST and root_from_leaves(leaves) == root


def damaged_leaves(data: Buffer, leaves: Buffer) -> list[int]:
    """Return the indexes, from 0, of the leaves that `data` should have and has not.

    `data` starts at the first of these leaves; missing or surplus bytes count as damage.
    """
    found, expected = hash_leaves(data), bytes(leaves)
    if found == expected:
        return []
    count = max(len(found), len(expected)) // DIGEST
    slices = (slice(index * DIGEST, (index + 1) * DIGEST) for index in range(count))
    return [index for index, part in enumerate(slices) if found[part] != expected[part]]

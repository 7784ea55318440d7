"""Which node looks after which part of an object, so that the memory of all nodes is one cache.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): every node
scores every block and the highest score wins. All nodes that know the same members agree without a word, and when
one leaves, only what it had moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def layout(size: int, block: int) -> list[tuple[int, int]]:
    """Return the parts of an object as (start, stop), in order: whole up to one `block`, else in blocks of it.

    An empty object has one empty part. Raises `ValueError` for a size below zero or a block below one.
    """
    if size < 0 or block < 1:
        raise ValueError(f"no layout of {size} bytes in blocks of {block}")
    return [(start, min(start + block, size)) for start in range(0, max(size, 1), block)]


def ranked(digest: str, index: int, nodes: Iterable[str]) -> list[str]:
    """Return the node ids with the home of block `index` first, then those who come after it when it is away."""
    return sorted(set(nodes), key=lambda node: (_score(node, digest, index), node), reverse=True)


def home(digest: str, index: int, nodes: Iterable[str]) -> str | None:
    """Return the id of the node that is the home of block `index`; None when there are no nodes."""
    return max(set(nodes), key=lambda node: (_score(node, digest, index), node), default=None)


def _score(node: str, digest: str, index: int) -> bytes:
    text = f"{len(node)}:{node}:{digest}:{index}"
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"cached home").digest()

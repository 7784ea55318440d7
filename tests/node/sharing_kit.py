"""What nodes whose contents have files in common are asked in tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cached.leases import capacity
from cached.node.node import Node
from cached.storage.disk import Store

#: Each above the size from which files are shared.
BIG = 40_000


def big(*letters: str, size: int = BIG) -> dict[str, bytes]:
    """One file a letter, each with bytes of its own."""
    return {letter: letter.encode() * size for letter in letters}


def counted(node: Node) -> int:
    """The physical bytes that contents are charged with."""
    return sum(row.physical for row in node.shelf.contents.values() if row.tier == "disk")


def there(node: Node) -> int:
    """The same, counted by what lies in the store: each inode once."""
    return lies_in(node.stores["disk"])


def lies_in(store: Store) -> int:
    """What the contents of a store take."""
    total = 0
    inodes: dict[int, int] = {}
    for content in store.list_contents():
        manifest = store.manifest(content)
        total += capacity.physical(manifest)
        for entry in manifest.files():
            size = capacity.on_partition(entry.size)
            total -= size
            inodes[store.data(content).joinpath(entry.path).stat().st_ino] = size
    return total + sum(inodes.values())


def path_of(node: Node, set_id: str, path: str) -> Path:
    """Where a file of a set lies on a node's disk."""
    store: Store = node.stores["disk"]
    return store.data(node.shelf.replicas[set_id].content) / path


def one_file(paths: Iterable[Path]) -> bool:
    """Whether these are names of one file."""
    return len({os.stat(path).st_ino for path in paths}) == 1

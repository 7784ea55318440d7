"""A quick look over a store at start-up: what lies there, plausibly whole? No file's bytes are read."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import msgspec

from cached.errors import CachedError
from cached.sets import manifest as manifests
from cached.sets.manifest import Manifest
from cached.storage import files, records, scrub
from cached.storage.disk import Store
from cached.storage.publication import leaf_bytes

#: Manifest bytes (about 100 an entry) whose trees are compared entry by entry; the rest gets a glance.
BUDGET = 2_000_000


class FoundContent(msgspec.Struct, frozen=True, kw_only=True):
    """A directory under `contents/`."""

    content: str
    #: Sum of the sizes of all files by the manifest, in bytes; 0 while unknown.
    bytes: int = 0
    #: Ids of the sets that have a record here.
    records: tuple[str, ...] = ()
    #: What is wrong, in words; empty when nothing was seen.
    damage: str = ""
    #: Whether every entry's presence and size was compared with the manifest.
    compared: bool = False


class FoundIncoming(msgspec.Struct, frozen=True, kw_only=True):
    """A directory under `incoming/`."""

    txid: str
    #: Content id of the sealed manifest; empty when it is not sealed.
    content: str = ""


class DirectoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a store's directories say."""

    contents: tuple[FoundContent, ...] = ()
    incoming: tuple[FoundIncoming, ...] = ()
    #: Names under `trash/`.
    trash: tuple[str, ...] = ()


def survey(store: Store, *, budget: int = BUDGET) -> DirectoryFacts:
    """Collect the facts of a store; small contents are compared first, within `budget` bytes of manifests."""
    sized = sorted((_manifest_size(store, content), content) for content in store.list_contents())
    contents = []
    for size, content in sized:
        budget -= size
        contents.append(_look(store, content, compare=budget >= 0))
    return DirectoryFacts(
        contents=tuple(sorted(contents, key=lambda found: found.content)),
        incoming=tuple(_incoming(store.root / "incoming" / txid) for txid in store.list_incoming()),
        trash=tuple(path.name for path in store.list_trash()),
    )


def _manifest_size(store: Store, content: str) -> int:
    try:
        return (store.root / "contents" / content / "manifest").stat().st_size
    except OSError:
        return 0


def _look(store: Store, content: str, *, compare: bool) -> FoundContent:
    home = store.root / "contents" / content
    known = records.names(home / "sets")
    try:
        if not compare:
            return FoundContent(content=content, records=known, damage=_glance(home))
        manifest = store.manifest(content)
        damage = _compare(store, content, manifest)
    except CachedError as error:
        return FoundContent(content=content, records=known, damage=error.message)
    return FoundContent(
        content=content, bytes=manifest.total_bytes, records=known, damage=damage, compared=True
    )


def _glance(home: Path) -> str:
    for part in ("manifest", "leaves", "data"):
        if not (home / part).exists():
            return f"{part} is missing"
    return ""


def _compare(store: Store, content: str, manifest: Manifest) -> str:
    leaves = store.home(content) / "leaves"
    if not leaves.exists() or leaves.stat().st_size != sum(map(leaf_bytes, manifest.files())):
        return "the leaf digests are missing or cut short"
    data_fd = store.open_content(content)
    try:
        with files.translated(store.home(content)):
            serious = next((found for found in scrub.shape(data_fd, manifest) if found.needs_bytes), None)
    finally:
        os.close(data_fd)
    return f"{serious.path!r}: {serious.kind}" if serious else ""


def _incoming(path: Path) -> FoundIncoming:
    try:
        data = (path / "manifest").read_bytes()
    except OSError:
        return FoundIncoming(txid=path.name)
    whole = data.startswith(manifests.HEADER)
    return FoundIncoming(txid=path.name, content=sha256(data).hexdigest() if whole else "")

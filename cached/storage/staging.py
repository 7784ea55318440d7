"""Staging: the tree of one coming content under `incoming/<txid>`, writable, private, and free to lose.

All paths inside the tree are resolved beneath its root and through no link: nothing is written elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from cached import faults
from cached.sets.coarse import Coarse
from cached.sets.digests import Digests
from cached.sets.manifest import Entry, Manifest
from cached.sets.set import SignedRecord, Tier
from cached.storage import durability, files, records, tree
from cached.storage.ballast import Ballast
from cached.storage.writeback import Writeback

STAGE_PREPARED = faults.declare("stage.prepared")
STAGE_SEALED = faults.declare("stage.sealed")


class Staging:
    """One staging area. Close it when done; what is staged stays until it is published or discarded."""

    def __init__(self, path: Path, tier: Tier) -> None:
        self.path = path
        self.tier: Tier = tier
        #: Blocks set aside for what is still to be written, where the caller did so.
        self.ballast: Ballast | None = None
        #: What goes to the device early, see `write_back`.
        self.writeback: Writeback | None = None
        #: Files that were made whole while this was open, with their final mode and time.
        self.made: Container[str] = frozenset()
        #: Path of the tree, for engines that need a path.
        self.data = path / "data"
        #: Directory descriptor of the tree.
        self.data_fd = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_back(self) -> None:
        """Have what is written go to the device while more is coming; nothing is to be done on the memory tier."""
        if self.tier == "disk" and self.writeback is None:
            self.writeback = Writeback(self.data_fd)

    def written(self) -> None:
        """Wait until what was begun early is on the device; raises the `OSError` that was met."""
        if self.writeback is not None:
            self.writeback.end()

    def close(self) -> None:
        """Close the directory descriptor; may be repeated."""
        if self.writeback is not None:
            self.writeback.close()
        if self.data_fd >= 0:
            os.close(self.data_fd)
            self.data_fd = -1

    def prepare(self, manifest: Manifest) -> None:
        """Create the manifest's directories, links and empty files with writable modes; may be repeated.

        Files with content stay absent: whoever fetches them creates them (see `open_writer`).
        """
        with files.translated(self.path):
            tree.make(
                self.data_fd,
                (entry for entry in manifest.entries if not (entry.kind == "file" and entry.size)),
            )
        faults.point(STAGE_PREPARED)

    def write_ahead(self, manifest: Manifest) -> None:
        """Have the kernel write what has come while the rest comes: the sync at the end is short then."""
        with files.translated(self.path):
            durability.write_ahead(self.data_fd, manifest)

    def open_writer(self, entry: Entry) -> int:
        """Open a file for reading and writing, made when absent, its space allocated on the memory tier.

        The caller closes the descriptor. `NoSpace` when the memory tier is full.
        """
        with files.translated(entry.path):
            fd = tree.create(self.data_fd, entry.path, os.O_RDWR, mode=0o600)
            if self.tier == "memory":
                files.allocate(fd, entry.size)
            return fd

    def use(self, size: int) -> None:
        """Give back `size` bytes of the space set aside: they are about to be written."""
        if self.ballast is not None:
            self.ballast.use(size)

    def seal(
        self,
        manifest: bytes,
        digests: Digests | Iterator[bytes],
        mtimes: bytes | None = None,
    ) -> None:
        """Write the manifest, digests and times beside the tree; may be repeated with other bytes.

        Where the digests are coarse ones, a `LeafMaker` makes the leaves before all is published.
        """
        with files.translated(self.path):
            if isinstance(digests, Coarse):
                files.write_atomic(self.path / "coarse", digests.to_keep(), durable=False)
            else:
                files.write_atomic(self.path / "leaves", digests, durable=False)
            if mtimes is not None:
                files.write_atomic(self.path / "mtimes", mtimes, durable=False)
            files.write_atomic(self.path / "manifest", manifest, durable=False)
        faults.point(STAGE_SEALED)

    def sealed(self) -> bool:
        """Return whether `seal` has come to its end."""
        return (self.path / "manifest").exists()

    def manifest_bytes(self) -> bytes:
        """Return the manifest as sealed."""
        with files.translated(self.path):
            return (self.path / "manifest").read_bytes()

    def leaves(self) -> bytes:
        """Return the leaf digests as sealed."""
        with files.translated(self.path):
            return (self.path / "leaves").read_bytes()

    def digests(self) -> Digests:
        """Return the leaves as sealed, or as they were made; else the coarse digests that were sealed."""
        with files.translated(self.path):
            if not (self.path / "leaves").exists():
                found = Coarse.kept(files.read_if_there(self.path / "coarse"))
                if found is not None:
                    return found
            return self.leaves()

    def mtimes(self) -> bytes | None:
        """Return the modification times as sealed, or None when they are unknown."""
        return files.read_if_there(self.path / "mtimes")

    def put_places(self, data: bytes) -> None:
        """Put where the files lie in the origin beside the tree, so that it is published with it."""
        with files.translated(self.path):
            files.write_atomic(self.path / "origin", data, durable=False)

    def places(self) -> bytes | None:
        """Return what `put_places` has put there, or None."""
        return files.read_if_there(self.path / "origin")

    def put_record(self, signed: SignedRecord) -> None:
        """Put a set's signed record beside the tree, so that it is published, and synced, with it."""
        records.put(self.path / "sets", signed, durable=False)


def reopen(path: Path, tier: Tier) -> Staging:
    """Open the staging area at `path`, made when absent, with the modes that writing needs."""
    with files.translated(path):
        for part in (str(path), f"{path}/sets", f"{path}/data"):
            with suppress(FileExistsError):
                os.mkdir(part, 0o700)
            if os.stat(part).st_mode & 0o7777 != 0o700:  # to set what is set writes to the journal as well
                os.chmod(part, 0o700)
        return Staging(path, tier)

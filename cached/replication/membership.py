"""A content's place in the swarm of this node, and how it is described to peers."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cached.errors import IntegrityFailed
from cached.replication.layout import Layout, Pack
from cached.replication.torrent import Torrent


@dataclass(kw_only=True, slots=True)
class Member:
    """A content that this node seeds or fetches."""

    layout: Layout
    #: None for a content without bytes.
    torrent: Torrent | None
    data: Path
    #: Descriptor of the staging directory, until storage has said where the content went.
    directory: int | None = None
    fetching: bool = False

    @property
    def running(self) -> Torrent | None:
        """The torrent, while it is in the session."""
        return self.torrent if self.torrent is not None and self.torrent.handle is not None else None

    def parameters(self) -> dict[str, Any]:
        """Return what an offer names: piece size and info-hash."""
        return {"piece_size": self.layout.piece_size, "info_hash": self.layout.info_hash}

    def description(self) -> dict[str, Any]:
        """Return what a fetcher needs to build the same torrent; see `agreement`."""
        pack = self.layout.pack
        if pack is None:
            return {**self.parameters(), "pack": None}
        root, layer = (base64.b64encode(digests).decode() for digests in (pack.root, pack.layer))
        return {**self.parameters(), "pack": {"size": pack.size, "root": root, "layer": layer}}

    def release(self) -> None:
        """Let go of the staging directory."""
        if self.directory is not None:
            os.close(self.directory)
            self.directory = None


def agreement(description: dict[str, Any]) -> tuple[int, Pack | None]:
    """Return piece size and pack from a peer's `Member.description`; raise `IntegrityFailed` for nonsense."""
    try:
        piece, pack = description["piece_size"], description["pack"]
        if not is_piece_size(piece):
            raise ValueError(f"a piece of {piece!r} bytes")
        if pack is None:
            return piece, None
        root, layer = base64.b64decode(pack["root"]), base64.b64decode(pack["layer"])
        return piece, Pack(size=int(pack["size"]), root=root, layer=layer)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityFailed(f"a peer describes its swarm in a way that makes no sense: {error}") from None


def is_piece_size(piece: object) -> bool:
    """Say whether BitTorrent v2 knows such pieces, here at most 128 MiB."""
    return isinstance(piece, int) and 16 * 1024 <= piece <= 128 * 1024 * 1024 and piece & (piece - 1) == 0

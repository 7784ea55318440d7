"""A content's place in the swarm of this node, and how it is described to peers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cached.errors import CachedError, IntegrityFailed, NoSource, TimedOut, UsageError
from cached.replication import layout as layouts
from cached.replication.layout import Layout, Pack
from cached.replication.torrent import Torrent
from cached.replication.transfer import Call, FetchJob, Holder, Holders, Traffic
from cached.sets.coarse import SPAN
from cached.sets.digests import Digests
from cached.sets.manifest import Manifest

_ASK_AGAIN = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Seedable:
    """A committed content of this node, as the swarm needs it."""

    manifest: Manifest
    #: Its leaves, or what suffices for that piece size.
    digests: Digests
    data: Path
    piece_size: int


#: `lookup(content, piece_size)`: a committed content that the swarm may seed, or None; 0 leaves the piece size open.
Lookup = Callable[[str, int], Awaitable[Seedable | None]]
#: `damaged(content, reason)`: a seed's files do not hold what they should; it is out of the swarm already.
Damaged = Callable[[str, str], None]


@dataclass(kw_only=True, slots=True)
class Member:
    """A content that this node seeds or fetches."""

    layout: Layout
    #: None for a content without bytes.
    torrent: Torrent | None
    data: Path
    #: Descriptor of the staging directory, until storage has said where the content went.
    directory: int | None = None
    #: The task that fetches it, while one does.
    fetch: asyncio.Task[None] | None = None
    #: The session is to be exchanged for another: the fetch ends, to begin again.
    interrupted: bool = False

    @property
    def fetching(self) -> bool:
        """Whether a fetch is under way."""
        return self.fetch is not None

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


@dataclass(slots=True)
class Ledger:
    """Traffic of torrents that are gone, by content."""

    past: dict[str, Traffic] = field(default_factory=dict)

    async def close(self, content: str, torrent: Torrent) -> None:
        """Take up what a torrent has moved, before it goes."""
        with contextlib.suppress(TimedOut):
            self.past[content] = self.past.get(content, Traffic()) + await torrent.traffic()


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


def complete_first(holders: Sequence[Holder]) -> list[Holder]:
    """Return the holders, those of all bytes first."""
    return sorted(holders, key=lambda holder: not holder.complete)


def joining(content: str, piece_size: int, port: int, *, source: bool, receivers: int) -> dict[str, Any]:
    """Return the body of `swarm.join`: `source` says that the caller will claim pieces of the node that it calls."""
    return {
        "content": content,
        "piece_size": piece_size,
        "port": port,
        "source": source,
        "receivers": receivers,
    }


def receivers_of(body: dict[str, Any]) -> int:
    """Return how many nodes a caller believes to be fetching; raise `UsageError` for nonsense."""
    receivers = body.get("receivers", 1)
    if not isinstance(receivers, int):
        raise UsageError("receivers is not a number")
    return max(1, receivers)


async def agree(
    job: FetchJob, holders: Holders, source: str, call: Call, *, node_id: str, port: int, patience: float
) -> tuple[int, Pack | None, dict[str, str]]:
    """Ask the members, the source first, for piece size and pack; a poisoned pack is found when it is taken apart.

    Return also who answered, with the info-hash of its torrent. A content without pack can be fetched even if nobody
    answers. Raises `NoSource`.
    """
    deadline = asyncio.get_running_loop().time() + patience
    reason = "none is known"
    while True:
        others = [one.node_id for one in complete_first(holders()) if one.node_id != node_id]
        for member in dict.fromkeys(filter(None, [source, *others])):
            body = joining(
                job.content, job.piece_size, port, source=member == source, receivers=job.receivers
            )
            try:
                answer = await call(member, "swarm.join", body)
                piece, pack = agreement(answer)
                layouts.check_pack(job.manifest, piece, pack)
                return piece, pack, {member: str(answer.get("info_hash", ""))}
            except CachedError as error:
                reason = error.message
        if not layouts.pack_bytes(job.manifest) and is_piece_size(job.piece_size):
            return job.piece_size, None, {}
        job.progress.reason = f"no holder describes the swarm: {reason}"
        if asyncio.get_running_loop().time() > deadline:
            raise NoSource(job.progress.reason, hint="check that a holder is alive", content=job.content)
        await asyncio.sleep(_ASK_AGAIN)


def is_piece_size(piece: object) -> bool:
    """Say whether pieces may have that size: a power of two, from what a coarse digest spans to 128 MiB."""
    return isinstance(piece, int) and SPAN <= piece <= 128 << 20 and piece & (piece - 1) == 0


def cut_long_files(job: FetchJob) -> None:
    """libtorrent never shortens a file, so what an earlier attempt left too long is cut here."""
    for entry in job.manifest.files():
        path = job.data / entry.path
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_size > entry.size:
                os.truncate(path, entry.size)

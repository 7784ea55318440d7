"""The swarm: contents that this node gives to others, and fetches from others, through BitTorrent.

Owns the libtorrent session, the packs of small files in `scratch`, and what peers' daemons ask about it.
Files are read and written where storage has them: a seed in its content directory, a fetch in its staging
directory, which is held by descriptor, so that storage may rename it while the swarm goes on. Never touches
files outside of these, and never writes to a seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from cached.errors import Busy, NoSource, NotFound, UsageError
from cached.replication import layout as layouts
from cached.replication import linked, queues, unpacking
from cached.replication import pack as packs
from cached.replication.claims import ClaimDesk
from cached.replication.fetching import Fetch
from cached.replication.layout import Layout
from cached.replication.membership import (
    Damaged,
    Ledger,
    Lookup,
    Member,
    agree,
    is_piece_size,
    receivers_of,
)
from cached.replication.port import check_port
from cached.replication.session import Session
from cached.replication.throttle import Throttle
from cached.replication.torrent import Torrent
from cached.replication.transfer import Allowed, Call, FetchJob, Holders, Peer, TlsMaterial, Traffic
from cached.sets.coarse import Coarse
from cached.sets.manifest import Manifest

log = logging.getLogger(__name__)


class Swarm:
    """This node's part in all swarms; see the module's docstring. Methods belong to one event loop."""

    def __init__(
        self,
        *,
        node_id: str,
        listen: str,
        scratch: Path,
        call: Call,
        allowed: Allowed = lambda _peer, _content: True,
        lookup: Lookup | None = None,
        damaged: Damaged | None = None,
        tls: TlsMaterial | None = None,
        encrypted: bool = True,
        reachable: Callable[[], bool] = lambda: True,
        host_of: Callable[[str], str] = lambda _peer: "",
        round_trip: Callable[[str], float] = lambda _peer: 0.0,
        patience: float = 20.0,
    ) -> None:
        self._node_id = node_id
        self._listen = listen
        self._scratch = scratch
        self._call = call
        self._allowed = allowed
        self._lookup = lookup
        self._damaged = damaged
        self._reachable = reachable
        #: The host at which a peer can be dialled; empty when it cannot.
        self._host_of = host_of
        #: The least time that a packet to a peer and its answer have taken, in seconds; 0 when nothing is known.
        self._round_trip = round_trip
        self._patience = patience
        self._tls = tls
        #: Whether members meet over TLS; see `encrypt`.
        self.encrypted = encrypted and tls is not None
        #: How fast it may be, and how fast it was.
        self.throttle = Throttle()
        self._session = self._new_session(listen)
        self._opened = False
        self._opening = asyncio.Lock()
        self._members: dict[str, Member] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._claims = ClaimDesk()
        self._ledger = Ledger()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, resuming: Collection[str] = ()) -> int:
        """Return the port; delete what earlier runs left in `scratch`, except for contents in `resuming`.

        libtorrent itself starts with the first torrent, or now when the configured port is 0. Raises
        `CachedError` when the port is taken.
        """
        packs.tidy(self._scratch, resuming)
        host, _, port = self._listen.rpartition(":")
        if int(port) == 0:
            await self.get_ready()
            return self._session.port
        check_port(host.strip("[]"), int(port))
        return int(port)

    async def close(self) -> None:
        """Leave all swarms."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._opened:
            await self._session.close()
        for member in self._members.values():
            member.release()
        self._members.clear()

    async def get_ready(self) -> None:
        """Start libtorrent, unless it runs."""
        async with self._opening:
            if not self._opened:
                await self._session.open()
                self._opened = True

    def _new_session(self, listen: str) -> Session:
        session = Session(listen=listen, node_id=self._node_id, tls=self._tls if self.encrypted else None)
        self.throttle.bind(session)
        return session

    async def encrypt(self) -> None:
        """Meet over TLS from now on: a member that insists on it has come. Nothing happens when it is so already.

        A torrent is either encrypted or not, for all its members; so the whole session is exchanged for
        another on the same port. Fetches end with `NoSource`, to be tried again; seeds return when they are
        asked for.
        """
        async with self._opening:
            if self.encrypted or self._tls is None:
                return
            log.info("the swarm is encrypted from now on: a member insists on it")
            await self._interrupt()
            old, opened, self.encrypted = self._session, self._opened, True
            port = old.port or self._listen.rpartition(":")[2]
            self._session, self._opened = (
                self._new_session(f"{self._listen.rpartition(':')[0]}:{port}"),
                False,
            )
            if opened:
                await old.close()
                await self._session.open()
                self._opened = True

    async def _interrupt(self) -> None:
        fetches = []
        for member in self._members.values():
            if member.fetch is not None:
                member.interrupted = True
                member.fetch.cancel()
                fetches.append(member.fetch)
        await asyncio.gather(*fetches, return_exceptions=True)
        for content in list(self._members):
            await self._remove(content)

    # Seeding

    async def seed(
        self, content: str, manifest: Manifest, digests: bytes | Coarse, data: Path, piece_size: int
    ) -> dict[str, Any]:
        """Give the content in `data` to others from now on; return its parameters.

        `digests` are its leaves, or its coarse digests where the pieces are no smaller than their spans. The bytes
        were verified by the caller. Idempotent: a content that is in the swarm already, fetched or
        seeded, keeps its piece size, and `data` is where its files are from now on.
        """
        async with self._lock(content):
            member = self._members.get(content)
            if member is None:
                member = await self._add_seed(content, manifest, digests, data, piece_size)
            elif not member.fetching and (member.data != data or member.directory is not None):
                await self._move(member, data)
            return member.parameters()

    async def _add_seed(
        self, content: str, manifest: Manifest, digests: bytes | Coarse, data: Path, piece_size: int
    ) -> Member:
        await self.get_ready()
        pack = None
        if layouts.pack_bytes(manifest):
            pack = await asyncio.to_thread(packs.make, data, manifest, self._pack(content), piece_size)
        layout = await asyncio.to_thread(layouts.build, content, manifest, digests, piece_size, pack)
        member = Member(layout=layout, torrent=None, data=data)
        if layout.files:
            member.torrent = Torrent(layout, on_damage=self._damage_reporter(content))
            await self._session.add(
                member.torrent,
                metadata=layout.torrent,
                save_path=str(data),
                files=self._paths(layout),
                seed=True,
            )
        self._members[content] = member
        return member

    async def _move(self, member: Member, data: Path) -> None:
        if member.torrent is not None:
            await member.torrent.move(str(data))
        member.data = data
        member.release()

    async def unseed(self, content: str) -> None:
        """Stop giving the content, and delete its pack; its files stay, and a fetch goes on."""
        async with self._lock(content):
            member = self._members.get(content)
            if member is not None and member.fetching:
                return
            await self._remove(content)
            self._pack(content).unlink(missing_ok=True)
        self._locks.pop(content, None)

    async def _remove(self, content: str) -> None:
        member = self._members.pop(content, None)
        if member is None:
            return
        torrent = member.running
        if torrent is not None:
            await self._ledger.close(content, torrent)
            await self._session.remove(torrent)
        member.release()

    def _damage_reporter(self, content: str) -> Callable[[str], None]:
        def report(reason: str) -> None:
            member = self._members.get(content)
            if member is None or member.torrent is None or member.torrent.on_damage is None:
                return
            member.torrent.on_damage = None
            log.error("the swarm stops giving %s: %s", content, reason)
            self._spawn(self.unseed(content))
            if self._damaged is not None:
                self._damaged(content, reason)

        return report

    # Fetching

    async def fetch(self, job: FetchJob, holders: Holders, source: str) -> None:
        """Bring the content into `job.data`, verified; the caller syncs and renames, then calls `seed`.

        Whatever is there already and verifies is kept. On failure or cancellation the partial files stay.
        Raises `NoSource`, `NoSpace`, `IntegrityFailed`, and `Busy` when this node has the content in a swarm
        already.
        """
        async with self._lock(job.content):
            if job.content in self._members:
                raise Busy("the content is in this node's swarm already", content=job.content)
            await self.get_ready()
            member = Member(
                layout=Layout(content=job.content, piece_size=job.piece_size, files=()),
                torrent=None,
                data=job.data,
            )
            member.fetch = asyncio.ensure_future(self._fetch(member, job, holders, source))
            self._members[job.content] = member
        try:
            await member.fetch
        except BaseException as error:
            await self._remove(job.content)
            if member.interrupted and isinstance(error, asyncio.CancelledError):
                raise NoSource("the swarm begins again, encrypted", content=job.content) from None
            raise
        finally:
            member.fetch = None

    async def _fetch(self, member: Member, job: FetchJob, holders: Holders, source: str) -> None:
        progress = job.progress
        progress.bytes_wanted = sum(entry.size for entry in job.manifest.files())
        piece, pack, joined = await agree(
            job,
            holders,
            source,
            self._call,
            node_id=self._node_id,
            port=self._session.port,
            patience=self._patience,
        )
        layout = await asyncio.to_thread(layouts.build, job.content, job.manifest, job.digests, piece, pack)
        member.layout = layout
        if layout.files:
            progress.state = "checking"
            await asyncio.to_thread(linked.prepare, job, self._pack(job.content))
            member.directory = os.open(job.data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            torrent = member.torrent = Torrent(layout)
            await self._session.add(
                torrent,
                metadata=layout.torrent,
                save_path=f"/proc/self/fd/{member.directory}",
                files=self._paths(layout),
                seed=False,
            )
            linked.check(torrent, job)
            progress.state = "transferring"
            async with unpacking.beside(torrent, self._pack(job.content), job) as left:
                await Fetch(
                    session=self._session,
                    torrent=torrent,
                    job=job,
                    holders=holders,
                    source=source,
                    node_id=self._node_id,
                    reachable=self._reachable(),
                    call=self._call,
                    patience=self._patience,
                    joined=joined,
                    round_trip=self._round_trip,
                ).run()
            progress.state = "verifying"
            await torrent.flush()
            await asyncio.to_thread(packs.complete, self._pack(job.content), job, left)
            progress.bytes_present = progress.bytes_wanted
            torrent.on_damage = self._damage_reporter(job.content)
        progress.state = "done"

    # What others ask

    def parameters(self, content: str) -> dict[str, Any] | None:
        """Return `piece_size` and `info_hash` of a content that is in the swarm, else None."""
        member = self._members.get(content)
        return member.parameters() if member is not None else None

    def given(self) -> list[str]:
        """Return the contents that are in the swarm to be given to others, not being fetched, sorted."""
        return sorted(content for content, member in self._members.items() if not member.fetching)

    def rpc_handlers(self) -> dict[str, Callable[[Peer, dict[str, Any]], Awaitable[dict[str, Any]]]]:
        """Return what peers' daemons may call: `swarm.join` and `swarm.claim`."""
        return {"swarm.join": self._on_join, "swarm.claim": self._on_claim}

    async def _on_join(self, peer: Peer, body: dict[str, Any]) -> dict[str, Any]:
        """A peer fetches: be in its swarm, describe the torrent, and dial the peer if it cannot dial us."""
        member = await self._admit(peer, body)
        if not member.fetching:
            self._advertise(member, peer, body, source=bool(body.get("source")))
        torrent = member.running
        if torrent is not None and not self._reachable():
            host = self._host_of(peer.node_id)
            if host and int(body.get("port") or 0):
                with contextlib.suppress(RuntimeError, TypeError):
                    torrent.handle.connect_peer((host, int(body["port"])))
        return member.description()

    async def _on_claim(self, peer: Peer, body: dict[str, Any]) -> dict[str, Any]:
        member = await self._admit(peer, body)
        pieces, now = len(member.layout.piece_sizes), asyncio.get_running_loop().time()
        answer = self._claims.claim(peer.node_id, body, pieces=pieces, now=now)
        return answer | {"queue": self._advertise(member, peer, body, source=True)}

    def _advertise(self, member: Member, peer: Peer, body: dict[str, Any], *, source: bool) -> int:
        rule = queues.source_queue if source else queues.member_queue
        some = [peer.node_id, *self._claims.members(member.layout.content, queues.ASKED)]
        queue = rule(queues.distance(map(self._round_trip, some)), receivers_of(body))
        self._session.advertise(member.layout.content, queue)
        return queue

    async def _admit(self, peer: Peer, body: dict[str, Any]) -> Member:
        content = body.get("content")
        if not isinstance(content, str):
            raise UsageError("content is missing")
        if not self._allowed(peer.node_id, content):
            raise NotFound("no such content here")
        member = self._members.get(content)
        if member is None and self._lookup is not None:
            piece: Any = body.get("piece_size")
            found = await self._lookup(content, int(piece) if is_piece_size(piece) else 0)
            if found is not None:
                await self.seed(content, found.manifest, found.digests, found.data, found.piece_size)
                member = self._members.get(content)
        if member is None or (member.fetching and not member.layout.files):
            raise NotFound("no such content here")
        return member

    async def stats(self, content: str) -> Traffic:
        """Return the payload bytes that the content has caused here since the daemon started."""
        past, member = self._ledger.past.get(content, Traffic()), self._members.get(content)
        torrent = member.torrent if member is not None else None
        return past if torrent is None else past + await torrent.traffic()

    def _lock(self, content: str) -> asyncio.Lock:
        return self._locks.setdefault(content, asyncio.Lock())

    def _pack(self, content: str) -> Path:
        return packs.path_of(self._scratch, content)

    def _paths(self, layout: Layout) -> dict[int, str]:
        pack = str(self._pack(layout.content))
        return {index: path or pack for index, path in layout.file_paths.items()}

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

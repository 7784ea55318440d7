"""The other members of a swarm, as one fetch deals with them: invited, resolved, dialled, missed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType

from cached.errors import CachedError
from cached.replication import mesh
from cached.replication.membership import joining
from cached.replication.torrent import Torrent
from cached.replication.transfer import Call, Holder, Holders

log = logging.getLogger(__name__)

#: Seconds between attempts to invite a holder, or to resolve a name.
_AGAIN = 2.0
#: Seconds for which the connection with a member that is missing has to be there at once.
_SOON = 3.0
NOBODY: Mapping[str, str] = MappingProxyType({})


class Members:
    """Whom a fetch wants connections with, and has; whom to dial is the rule of `mesh`."""

    def __init__(
        self,
        *,
        torrent: Torrent,
        holders: Holders,
        source: str,
        node_id: str,
        reachable: bool,
        port: int,
        call: Call,
        receivers: int,
        joined: Mapping[str, str] = NOBODY,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self._torrent = torrent
        self._holders = holders
        self._source = source
        self._node_id = node_id
        self._reachable = reachable
        self._port = port
        self._call = call
        self._receivers = receivers
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        #: All members that are known, and those of them to be connected with, by node id.
        self.known: dict[str, Holder] = {}
        self.chosen: dict[str, Holder] = {}
        #: Those that are, and the addresses from which their connections come; these need not be the dialled ones.
        self.connected: dict[str, str] = {}
        #: Complete holders that have the torrent in their session.
        self.joined = {key for key, info_hash in joined.items() if info_hash == torrent.layout.info_hash}
        #: Has those connected at once that were dialled.
        self._hurry = hurry
        #: When members were dialled last.
        self.dialled_at = 0.0
        #: When a holder was invited, or a host resolved, last.
        self._tried: dict[str, float] = {}
        self._addresses: dict[str, str] = {}
        self._missing: dict[str, float] = {}

    async def refresh(self) -> None:
        """Learn from the directory who is there now, and invite complete holders that are new."""
        now = self._loop.time()
        self.known = known = {holder.node_id: holder for holder in self._holders()}
        before = self.chosen
        self.chosen = {holder.node_id: holder for holder in mesh.neighbours(self._node_id, known.values())}
        if self._source in known:
            self.chosen[self._source] = known[self._source]
        for node_id, holder in self.chosen.items():
            self._missing.setdefault(node_id, now)
            if node_id not in before:
                self.dialled_at = 0.0
            if holder.host and holder.host not in self._addresses and self._due(f"host {holder.host}", now):
                await self._resolve(holder.host)
            if holder.complete and node_id not in self.joined and self._due(node_id, now):
                task = self._loop.create_task(self._invite(node_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        hosts = {holder.host for holder in known.values()}
        self._torrent.addresses = {self._addresses[host] for host in hosts if host in self._addresses}

    async def settle(self, timeout: float) -> None:
        """Wait until those who were invited have answered, but not longer than `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def receivers(self) -> int:
        """Return how many nodes get it at the same time, this one included: at least as many as the fetch was told."""
        others = sum(not one.complete for key, one in self.known.items() if key != self._node_id)
        return max(self._receivers, 1 + others)

    def seen(self, connected: dict[str, str]) -> None:
        """Take note of who is connected."""
        self.connected = connected
        now = self._loop.time()
        for node_id in connected:
            self._missing[node_id] = now

    def dial(self, *, without_source: bool) -> None:
        """Dial whoever is missing and ours to dial; complete holders once they have joined."""
        now, hurried = self._loop.time(), False
        self.dialled_at = now
        wanted = [
            member
            for node_id, member in self.chosen.items()
            if (not member.complete or node_id in self.joined)
            and not (without_source and node_id == self._source)
        ]
        for member in mesh.to_dial(
            self._node_id,
            wanted,
            reachable=self._reachable,
            connected=self.connected,
            missing_since=self._missing,
            now=now,
        ):
            address = self._addresses.get(member.host)
            if address:
                self._torrent.handle.connect_peer((address, member.bittorrent_port))
                hurried |= now - self._missing[member.node_id] < _SOON
        if hurried:
            self._hurry()

    def address_of_source(self) -> str:
        """Return the source's address; empty when it is not known, or another member's too."""
        address = self.connected.get(self._source, "")
        others = {
            where
            for node_id, member in self.known.items()
            if node_id != self._source
            for where in (self._addresses.get(member.host), self.connected.get(node_id))
        }
        return "" if address in others else address

    def _due(self, what: str, now: float) -> bool:
        if now - self._tried.get(what, now - _AGAIN) < _AGAIN:
            return False
        self._tried[what] = now
        return True

    async def _resolve(self, host: str) -> None:
        with contextlib.suppress(ValueError):
            self._addresses[host] = str(ipaddress.ip_address(host))
            return
        try:
            found = await self._loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        except OSError as error:
            log.debug("cannot resolve %s: %s", host, error)
            return
        self._addresses[host] = str(found[0][4][0])

    async def _invite(self, node_id: str) -> None:
        """Ask a complete holder to take part; it may have to add the torrent first, or to dial us."""
        layout = self._torrent.layout
        body = joining(
            layout.content,
            layout.piece_size,
            self._port,
            source=node_id == self._source,
            receivers=self.receivers(),
        )
        try:
            answer = await self._call(node_id, "swarm.join", body)
        except CachedError as error:
            log.debug("%s does not join the swarm of %s: %s", node_id, layout.content, error)
            return
        if answer.get("info_hash") == layout.info_hash:
            self.joined.add(node_id)
            self.dialled_at = 0.0
        else:
            log.info("%s has %s in pieces of another size", node_id, layout.content)

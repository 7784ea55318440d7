"""Calls and streams between the nodes of a cluster, by node id.

Whoever can dial, dials. A dial of a node that is dead costs one second at most, a node that could not be dialled
is left alone for a while (longer each time, until it shows a sign of life), and a node that nobody can dial is
reached through the poll that it keeps open here. Errors of the other side come back as what they are; all that
concerns the way there is `PeerUnreachable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

import msgspec

from cached.budget import Budget, Writer, goes_first
from cached.errors import BadConfig, PeerUnreachable
from cached.peers.bulk_source import Asking, BulkSource, Kept, Turns
from cached.peers.client import CONNECT_SECONDS, KEEP_SECONDS, Client, NotConnected
from cached.peers.handlers import CallHandler, Handlers, StreamHandler
from cached.peers.identity import Identity
from cached.peers.poll import Mailboxes, Poller
from cached.peers.records import Peer
from cached.peers.route import Route
from cached.peers.server import Server
from cached.undisturbed import undisturbed

__all__ = ["Link", "Writer"]


class Link:
    """This node's side of all its connections with peers."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        #: What streams may take of this node's links, either way.
        self.upload, self.download = Budget(), Budget()
        self._routes: dict[str, Route] = {}
        self._seen: dict[str, Peer] = {}
        self._handlers = Handlers(identity.revoked, self.upload)
        self._server = Server(identity.server_context(), self._handlers, self._heard)
        self._mailboxes = Mailboxes(self._server)
        self._context = self._client_context()
        self._client = Client(self._context, self._address_of, self._silent)
        self._kept = Kept()
        self._poller = Poller(self._client, self._handlers, self._seen.__getitem__)
        #: Port that peers dial; 0 before `start`.
        self.port = 0

    @property
    def refused(self) -> int:
        """Connections that were refused in the handshake, since the start."""
        return self._server.refused

    async def start(self, listen: str) -> int:
        """Listen for peers on `host:port` (port 0 picks one); return the port. Raises `BadConfig` where it cannot."""
        try:
            self.port = await self._server.start(listen)
        except OSError as error:
            raise BadConfig(
                f"cannot listen for peers on {listen}: {error.strerror or error}",
                hint="set [node] listen to an address of this machine and a free port; port 0 picks one",
            ) from error
        return self.port

    async def close(self) -> None:
        """Close all connections."""
        await self._poller.close()
        self._mailboxes.close()
        self._kept.close()
        await self._client.close()
        await self._server.close()

    def handle(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method` with what `handler(peer, body)` returns: a JSON object."""
        self._handlers.handle(method, handler)

    def stream(self, name: str, handler: StreamHandler) -> None:
        """Answer streams of `name`: `handler(peer, query, writer)` writes the bytes."""
        self._handlers.stream(name, handler)

    async def call(self, node_id: str, method: str, body: Any, timeout: float = 10.0) -> Any:
        """Have a node run `method` with `body`, a JSON object (a dict or a msgspec struct).

        Raises:
            PeerUnreachable: it cannot be dialled and does not poll here, or did not answer within `timeout`
            seconds. CachedError: whatever the method raised there.
        """
        if node_id == self._identity.node_id:
            own = Peer(node_id=node_id, domains=self._identity.domains)
            return msgspec.to_builtins(await self._handlers.run_call(own, method, msgspec.to_builtins(body)))
        if self._through_poll(node_id):
            return await self._mailboxes.call(node_id, method, body, timeout)
        try:
            with self._dialling(node_id):
                answer = await self._client.call(node_id, f"/v1/call/{method}", body, timeout)
                route, now = self._routes[node_id], asyncio.get_running_loop().time()
                route.alive(now)
                route.answered = now
                return answer
        except NotConnected:
            if not self._mailboxes.polled_by(node_id):
                raise
            return await self._mailboxes.call(node_id, method, body, timeout)

    async def fetch(
        self, node_id: str, stream: str, query: dict[str, Any], timeout: float | None = 30.0
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a node's stream; `timeout` is the longest wait for the next ones, in seconds.

        With `first` in the query, because a job waits for them, they go before those of other streams at both ends.

        Raises:
            PeerUnreachable: the node cannot be reached, stalls, or breaks off: what came before may be used.
            CachedError: whatever the stream raised before its first byte.
        """
        first = goes_first(query)
        async with contextlib.aclosing(self._stream(node_id, stream, query, timeout)) as chunks:
            async for chunk in chunks:
                async for piece in self.download.pieces(chunk, first=first):
                    yield piece

    async def _stream(
        self, node_id: str, stream: str, query: dict[str, Any], timeout: float | None
    ) -> AsyncGenerator[bytes]:
        if self._through_poll(node_id):
            source = self._mailboxes.fetch(node_id, stream, query, timeout)
            async with contextlib.aclosing(source) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
            return
        with self._dialling(node_id):
            source = self._client.fetch(node_id, f"/v1/stream/{stream}", query, timeout)
            async with contextlib.aclosing(source) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk

    async def bulk(
        self, node_id: str, stream: str, query: dict[str, Any], stall: float, size: int | None = None
    ) -> BulkSource:
        """Open a node's stream on a connection of its own, to be read by a thread; the caller closes it.

        For many bytes, and nodes that can be dialled. `stall` is the longest wait for bytes, in seconds. Who says of
        how many bytes (`size`) the stream is leaves the connection for the next one, and asks on one that was left:
        that costs no turn of a thread, and what the stream raises comes where it is read, as `PeerUnreachable`.

        Raises:
            PeerUnreachable: the node cannot be dialled, or breaks off. CachedError: whatever the stream raised.
        """
        turns = Turns(self.download, first=goes_first(query))
        keep, address = partial(self._kept.put, node_id), self._address_of(node_id)
        asking = Asking(
            self._context,
            address,
            node_id,
            stream,
            query,
            connect=CONNECT_SECONDS,
            stall=stall,
            keep=size is not None,
        )
        kept = self._kept.take(node_id) if size is not None else None
        if kept is not None:
            return BulkSource(kept, turns, size, keep, partial(asking.again, kept))
        with self._dialling(node_id):
            try:
                connection = await undisturbed(asking.anew, late=ssl.SSLSocket.close)
            except OSError as error:
                raise PeerUnreachable(
                    f"node {node_id[:8]} gives no stream at {address}: {error.strerror or error}",
                    node=node_id,
                ) from None
        return BulkSource(connection, turns, size, keep)

    async def dial(self, address: str) -> str:
        """Return the id of the member that listens at `host:port`, and remember the way; raises
        `PeerUnreachable`.
        """
        peer = await self._client.shake(address)
        if peer.node_id != self._identity.node_id:
            route = self._routes.setdefault(peer.node_id, Route())
            if not route.address:
                route.moved(address)
            route.alive()
        return peer.node_id

    def learned(self, node_id: str, address: str, *, reachable: bool) -> None:
        """Take up what a node's record says about the way to it; that it has a record is a sign of life."""
        route = self._routes.setdefault(node_id, Route())
        route.moved(address)
        route.reachable = reachable

    def alive(self, node_id: str) -> None:
        """Note a sign of life of a node: it may be dialled again at once."""
        if node_id in self._routes:
            self._routes[node_id].alive(asyncio.get_running_loop().time())

    def can_call(self, node_id: str) -> bool:
        """Tell whether a call would be tried now, rather than refused for want of a way."""
        route = self._routes.get(node_id)
        if self._mailboxes.polled_by(node_id):
            return True
        now = asyncio.get_running_loop().time()
        return route is not None and bool(route.address) and route.reachable and not route.wait(now)

    def at_hand(self, node_id: str) -> bool:
        """Tell whether a connection to a node is likely to be open: a call needs no handshake."""
        route = self._routes.get(node_id)
        now = asyncio.get_running_loop().time()
        return route is not None and now - route.answered < KEEP_SECONDS - CONNECT_SECONDS

    async def who_listens(self, address: str) -> str:
        """Return the id of the member that listens at `host:port`, and remember nothing."""
        return (await self._client.shake(address)).node_id

    def keep_polls(self, node_ids: frozenset[str]) -> None:
        """Keep a poll open to these nodes and no others: this node cannot be dialled."""
        self._poller.keep(node_ids)

    def round_trip(self, node_id: str) -> float:
        """Return the least seconds that a packet to a node and its answer have taken; 0 when nothing is known.

        From the connections that the node has open here: the kernel measures it, whatever the programs do.
        """
        return self._server.round_trip(node_id)

    def _through_poll(self, node_id: str) -> bool:
        route = self._routes.get(node_id)
        dialable = route is not None and bool(route.address) and route.reachable and not route.failures
        return not dialable and self._mailboxes.polled_by(node_id)

    @contextlib.contextmanager
    def _dialling(self, node_id: str) -> Any:
        now = asyncio.get_running_loop().time
        self._address_of(node_id)
        route = self._routes[node_id]
        if wait := route.wait(now()):
            raise PeerUnreachable(
                f"node {node_id[:8]} could not be dialled lately",
                hint=f"next attempt in {wait:.1f} s",
                node=node_id,
            )
        try:
            yield
        except NotConnected:
            route.failed(now())
            raise

    def _silent(self, node_id: str) -> bool:
        route = self._routes.get(node_id)
        return route is not None and route.silent(asyncio.get_running_loop().time())

    def _address_of(self, node_id: str) -> str:
        route = self._routes.get(node_id)
        if route is None or not route.address:
            raise PeerUnreachable(f"no address of node {node_id[:8]} is known", node=node_id)
        if not route.reachable:
            raise PeerUnreachable(
                f"node {node_id[:8]} cannot be dialled and does not poll here", node=node_id
            )
        return route.address

    def _heard(self, peer: Peer) -> None:
        self._seen[peer.node_id] = peer
        self.alive(peer.node_id)

    def _client_context(self) -> ssl.SSLContext:
        from cached.peers.tls import PeerContext

        context = self._identity.client_context()
        assert isinstance(context, PeerContext)
        check = context.check

        def remember(certificate: bytes) -> Peer:
            peer = check(certificate)
            self._seen[peer.node_id] = peer
            return peer

        context.check = remember
        return context

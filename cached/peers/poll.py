"""Calls to a node that nobody can dial: it keeps a long poll open, and finds them there.

`Mailboxes` is the side that is dialled: it queues requests for such nodes, hands them out to their polls and
takes the replies. `Poller` is the node that cannot be dialled: it polls, runs what it finds, and answers. A
stream goes the same way: the polled request asks for it, and the node pushes the bytes in a request of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from cached.errors import Busy, CachedError, Forbidden, NotFound, PeerUnreachable
from cached.peers.client import Client
from cached.peers.handlers import Handlers
from cached.peers.records import Peer
from cached.peers.server import STEP, Server, json_body, json_response

log = logging.getLogger(__name__)

#: A poll is answered after this many seconds even if there is nothing to say.
POLL_SECONDS = 20.0
#: Requests that may wait for one node, and how many go into one answer.
MAX_WAITING = 256
MAX_BATCH = 16
#: Chunks of a pushed stream that may wait for their reader.
MAX_CHUNKS = 4
#: A node counts as polling for this long between two polls.
GRACE_SECONDS = 3.0


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a polling node."""

    id: str
    #: `call` or `stream`.
    kind: str
    name: str
    body: Any


@dataclass(slots=True)
class _Mailbox:
    waiting: deque[Errand] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    sinks: dict[str, asyncio.Queue[bytes | None]] = field(default_factory=dict)
    polls: list[web.Request] = field(default_factory=list)
    last_poll: float = float("-inf")

    def live(self, now: float) -> bool:
        return any(_connected(poll) for poll in self.polls) or now - self.last_poll < GRACE_SECONDS


class Mailboxes:
    """The requests that wait for nodes which cannot be dialled."""

    def __init__(self, server: Server) -> None:
        self._boxes: dict[str, _Mailbox] = {}
        self._closed = asyncio.Event()
        self._handlers = server.handlers
        server.app.router.add_post("/v1/poll", server.guarded(self._poll))
        server.app.router.add_post("/v1/reply", server.guarded(self._reply))
        server.app.router.add_post("/v1/push/{id}", server.guarded(self._push))

    def polled_by(self, node_id: str) -> bool:
        """Tell whether the node has a poll open here."""
        box = self._boxes.get(node_id)
        return box is not None and box.live(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Answer all polls, and fail what still waits."""
        self._closed.set()
        for node_id, box in self._boxes.items():
            box.news.set()
            for reply in box.replies.values():
                if not reply.done():
                    reply.set_exception(PeerUnreachable("this node is stopping", node=node_id))

    async def call(self, node_id: str, method: str, body: Any, timeout: float) -> Any:
        """Have a polling node run a call; raises what the node raised, or `PeerUnreachable`."""
        box = self._box(node_id)
        with self._errand(box, "call", method, body) as (_, reply):
            try:
                async with asyncio.timeout(timeout):
                    return await reply
            except TimeoutError:
                raise PeerUnreachable(f"node {node_id[:8]} did not answer in time", node=node_id) from None

    async def fetch(self, node_id: str, name: str, query: Any, stall: float | None) -> AsyncIterator[bytes]:
        """Have a polling node push a stream, and yield its bytes."""
        box = self._box(node_id)
        sink: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_CHUNKS)
        with self._errand(box, "stream", name, query) as (errand, reply):
            box.sinks[errand] = sink
            try:
                while (chunk := await _next(sink, reply, node_id, stall)) is not None:
                    yield chunk
            finally:
                del box.sinks[errand]

    @contextlib.contextmanager
    def _errand(self, box: _Mailbox, kind: str, name: str, body: Any) -> Any:
        if len(box.waiting) >= MAX_WAITING:
            raise Busy("too many requests wait for this node")
        errand = Errand(id=secrets.token_hex(16), kind=kind, name=name, body=body)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())
        box.replies[errand.id] = reply
        box.waiting.append(errand)
        box.news.set()
        try:
            yield errand.id, reply
        finally:
            reply.cancel()
            del box.replies[errand.id]
            with contextlib.suppress(ValueError):
                box.waiting.remove(errand)

    def _box(self, node_id: str) -> _Mailbox:
        return self._boxes.setdefault(node_id, _Mailbox())

    async def _poll(self, request: web.Request, peer: Peer) -> web.StreamResponse:
        box = self._box(peer.node_id)
        loop = asyncio.get_running_loop()
        box.polls.append(request)
        try:
            until = loop.time() + POLL_SECONDS
            while not box.waiting and not self._closed.is_set() and loop.time() < until:
                box.news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await box.news.wait()
            if not _connected(request):
                if box.waiting:
                    box.news.set()  # the next poll's
                raise ConnectionResetError("the polling node has gone")
            self._handlers.check(peer)  # it may have been revoked meanwhile
            batch = [box.waiting.popleft() for _ in range(min(MAX_BATCH, len(box.waiting)))]
            return json_response({"items": batch})
        finally:
            box.polls.remove(request)
            if _connected(request):
                box.last_poll = loop.time()

    async def _reply(self, request: web.Request, peer: Peer) -> web.StreamResponse:
        body = await json_body(request)
        reply = self._box(peer.node_id).replies.get(str(body.get("id")))
        if reply is not None and not reply.done():
            if "error" in body:
                reply.set_exception(CachedError.from_wire(body))
            else:
                reply.set_result(body.get("result"))
        return json_response({})

    async def _push(self, request: web.Request, peer: Peer) -> web.StreamResponse:
        box = self._box(peer.node_id)
        errand = request.match_info["id"]
        sink, reply = box.sinks.get(errand), box.replies.get(errand)
        if sink is None or reply is None:
            raise NotFound("nobody waits for this stream any more")
        try:
            while chunk := await request.content.readany():
                self._handlers.check(peer)
                await _put(sink, chunk, reply)
            await _put(sink, None, reply)
        except (OSError, web.HTTPException, Forbidden):
            if not reply.done():
                reply.set_exception(PeerUnreachable("the stream broke off", node=peer.node_id))
        return json_response({})


async def _put(sink: asyncio.Queue[bytes | None], chunk: bytes | None, reply: asyncio.Future[Any]) -> None:
    """Put a chunk, unless the reader goes (which cancels `reply`) while there is no room."""
    if not sink.full():
        sink.put_nowait(chunk)
        return
    putting = asyncio.ensure_future(sink.put(chunk))
    try:
        await asyncio.wait((putting, reply), return_when=asyncio.FIRST_COMPLETED)
    finally:
        putting.cancel()
    if not putting.done() or putting.cancelled():
        raise NotFound("nobody waits for this stream any more")


async def _next(
    sink: asyncio.Queue[bytes | None], reply: asyncio.Future[Any], node_id: str, stall: float | None
) -> bytes | None:
    if not sink.empty():
        return sink.get_nowait()
    getting = asyncio.ensure_future(sink.get())
    try:
        await asyncio.wait((getting, reply), timeout=stall, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        if reply.done():
            reply.result()
            raise PeerUnreachable(f"node {node_id[:8]} ended the stream early", node=node_id)
        raise PeerUnreachable(f"node {node_id[:8]} sent nothing in time", node=node_id)
    finally:
        getting.cancel()


def _connected(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


class Poller:
    """Keeps one poll open to each of some nodes, and runs what arrives there."""

    def __init__(self, client: Client, handlers: Handlers, peer_named: Any) -> None:
        self._client = client
        self._handlers = handlers
        self._peer_named = peer_named
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()

    def keep(self, node_ids: frozenset[str]) -> None:
        """Poll these nodes, and no others."""
        for node_id in self._polls.keys() - node_ids:
            self._polls.pop(node_id).cancel()
        for node_id in node_ids:
            if node_id not in self._polls or self._polls[node_id].done():
                self._polls[node_id] = asyncio.get_running_loop().create_task(self._poll(node_id))

    async def close(self) -> None:
        """Stop polling."""
        tasks = [*self._polls.values(), *self._errands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, node_id: str) -> None:
        wait = 0.2
        while True:
            try:
                answer = await self._client.call(node_id, "/v1/poll", {}, POLL_SECONDS + 5)
                errands = msgspec.convert(answer["items"], list[Errand])
                wait = 0.2
            except (CachedError, msgspec.ValidationError, KeyError, TypeError) as error:
                log.debug("polling node %s: %s", node_id[:8], error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, 5.0)
                continue
            for errand in errands:
                task = asyncio.get_running_loop().create_task(self._run(node_id, errand))
                self._errands.add(task)
                task.add_done_callback(self._errands.discard)

    async def _run(self, node_id: str, errand: Errand) -> None:
        reply: dict[str, Any] = {"id": errand.id}
        try:
            peer = self._peer_named(node_id)
            if errand.kind == "stream":
                await self._push(peer, errand)
                return
            reply["result"] = await self._handlers.run_call(peer, errand.name, errand.body)
        except (CachedError, ConnectionError) as error:
            known = error if isinstance(error, CachedError) else PeerUnreachable(str(error))
            reply |= known.to_wire()
        with contextlib.suppress(CachedError):
            await self._client.call(node_id, "/v1/reply", reply, 10.0)

    async def _push(self, peer: Peer, errand: Errand) -> None:
        writer = _PushWriter()
        source = asyncio.get_running_loop().create_task(
            self._handlers.run_stream(peer, errand.name, errand.body, writer)
        )
        source.add_done_callback(writer.end)
        try:
            first = await writer.chunks.get()
            if first is None:
                await source  # an error before the first byte keeps its type
            await self._client.push(peer.node_id, f"/v1/push/{errand.id}", writer.body(first, source))
        finally:
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)


class _PushWriter:
    """Gathers a stream's bytes for the body of a request."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_CHUNKS)

    def length(self, total: int) -> None:
        """Not needed: the body is chunked."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over bytes; waits while too many are under way."""
        for at in range(0, len(data), STEP):
            await self._room.acquire()
            self.chunks.put_nowait(bytes(data[at : at + STEP]))

    def end(self, _: object) -> None:
        """Mark the end."""
        self.chunks.put_nowait(None)

    async def body(self, first: bytes | None, source: asyncio.Task[None]) -> AsyncIterator[bytes]:
        """Yield what was written; raises what the source raised, which breaks the request off."""
        chunk = first
        while chunk is not None:
            yield chunk
            self._room.release()
            chunk = await self.chunks.get()
        await source

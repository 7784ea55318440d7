"""The calls and streams that a node answers for its peers, however they arrive."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cached.budget import Budget, PacedWriter, Writer, goes_first
from cached.errors import Busy, CachedError, Forbidden, NotFound, UsageError
from cached.peers.records import Peer

log = logging.getLogger(__name__)

#: Calls and streams that one peer may have under way.
MAX_CALLS = 128
MAX_STREAMS = 64

_NAME = re.compile(r"[a-z0-9._-]{1,64}")


CallHandler = Callable[[Peer, dict[str, Any]], Awaitable[Any]]
StreamHandler = Callable[[Peer, dict[str, Any], Writer], Awaitable[None]]


#: A body that is there, or how to read it.
Body = dict[str, Any] | Callable[[], Awaitable[dict[str, Any]]]


async def _read(body: Body) -> dict[str, Any]:
    return body if isinstance(body, dict) else await body()


class Handlers:
    """The named calls and streams that a node answers, however they arrive."""

    def __init__(self, revoked: Callable[[str], bool], upload: Budget) -> None:
        self._revoked = revoked
        self._upload = upload
        self._calls: dict[str, CallHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._running: Counter[tuple[str, str]] = Counter()

    def handle(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method`."""
        assert _NAME.fullmatch(method)
        assert method not in self._calls
        self._calls[method] = handler

    def stream(self, name: str, handler: StreamHandler) -> None:
        """Answer streams of `name`."""
        assert _NAME.fullmatch(name)
        assert name not in self._streams
        self._streams[name] = handler

    def check(self, peer: Peer) -> None:
        """Raise `Forbidden` if the peer has been revoked, also after it connected."""
        if self._revoked(peer.node_id):
            raise Forbidden("this node is revoked")

    async def run_call(self, peer: Peer, method: str, body: Body) -> Any:
        """Run a call; every failure leaves as a `CachedError`. The body is read once the call is admitted."""
        handler = self._calls.get(method)
        if handler is None:
            raise NotFound(f"this node has no call {method!r}", hint="do all nodes run the same version?")
        async with self._admit(peer, "calls", MAX_CALLS, method):
            return await handler(peer, await _read(body))

    async def run_stream(self, peer: Peer, name: str, query: Body, writer: Writer) -> None:
        """Run a stream; every failure leaves as a `CachedError`, a vanished reader as `ConnectionError`."""
        handler = self._streams.get(name)
        if handler is None:
            raise NotFound(f"this node has no stream {name!r}", hint="do all nodes run the same version?")
        async with self._admit(peer, "streams", MAX_STREAMS, name):
            asked = await _read(query)
            await handler(peer, asked, PacedWriter(writer, self._upload, first=goes_first(asked)))

    @contextlib.asynccontextmanager
    async def _admit(self, peer: Peer, kind: str, limit: int, name: str) -> Any:
        self.check(peer)
        key = (peer.node_id, kind)
        if self._running[key] >= limit:
            raise Busy(f"{limit} {kind} of this peer are under way", hint="try again in a moment")
        self._running[key] += 1
        try:
            yield
        except (CachedError, ConnectionError):
            raise
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from None
        except Exception:
            log.exception("%s from node %s failed", name, peer.node_id[:8])
            raise CachedError(f"{name} failed on the peer", hint="its log says why") from None
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

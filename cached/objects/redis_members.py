"""The servers behind one `[objects] redis`: who keeps which name, who is lost, and looking after those.

A single server keeps all names; of a Redis Cluster each master keeps its slots, with connections and a breaker
of its own. The library's cluster client closes all of its connections when one member fails, and has no
deadline for a whole question, hence this small one. While something is lost or not known, one task in the
background asks and probes, so that no reader does.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from cached.errors import BadConfig
from cached.objects.redis_server import Refused, Report, Server, Unanswered
from cached.objects.redis_slots import SLOTS, Span, owners, slot
from cached.objects.redis_url import Target

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

#: In the background nobody waits: it has so many times longer.
_PATIENCE: Final = 8
#: Seconds between two looks at who keeps what, at least; and while the servers are not those meant.
_LOOK_AGAIN: Final = 1.0
_LOOK_SELDOM: Final = 30.0


class Members:
    """The servers; nothing is dialled before `begin`, or the first question."""

    def __init__(
        self,
        seeds: tuple[Target, ...],
        *,
        password: str,
        tls: ssl.SSLContext | None,
        timeout: float,
        connections: int,
        count: Callable[[str], None],
        note: Callable[[str, str], None],
    ) -> None:
        self._seeds, self._password, self._tls = seeds, password, tls
        self._timeout, self._connections = timeout, connections
        self._count, self._note = count, note
        self._servers: dict[str, Server] = {}
        #: For each slot who keeps it; empty until a server was reached.
        self._owners: list[Server | None] = []
        self._problem = ""
        self._stale, self._look_at = True, float("-inf")
        self._wake, self._reached = asyncio.Event(), asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._lost_since: dict[str, dt.datetime] = {}

    @property
    def state(self) -> str:
        """`on`, `off`, or `lost since ...` (RFC 3339, UTC); of a cluster also how many servers."""
        if self._closed or self._problem:
            return "off"
        if not self._lost_since:
            return "on"
        many = f" ({len(self._lost_since)} of {len(self._servers)} servers)" if len(self._servers) > 1 else ""
        return f"lost since {min(self._lost_since.values()):%Y-%m-%dT%H:%M:%SZ}{many}"

    @property
    def troubles(self) -> list[str]:
        """What an operator should look at, in words."""
        found = [self._problem] if self._problem else []
        if self._lost_since:
            found.append(f"redis is {self.state}: {', '.join(sorted(self._lost_since))}")
        return [
            *found,
            *(word for each in self._servers.values() if each.report for word in each.report.troubles),
        ]

    def begin(self) -> None:
        """Make the first contact, and ask the servers about themselves, in the background. In an event loop."""
        if not self._reached.is_set():
            self._stir()

    async def ask(self, name: str, question: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Ask whoever keeps the name; None when that is nobody, or it does not answer in time.

        Raises:
            Refused: the server is well, but will not do this.
        """
        await self._ready(self._timeout)
        server = self._owners[slot(name)] if self._owners else None
        if server is None or not server.breaker.closed:
            self._count("redis.skipped")
            return None
        if server.asking >= self._connections:
            self._count("redis.busy")
            return None
        return await self._asked(server, question, name)

    async def ping(self) -> bool:
        """Tell whether all servers answer; the first use dials them."""
        await self._ready(_PATIENCE * self._timeout)
        for server in list(self._servers.values()):
            if not server.breaker.closed or not await self._asked(server, lambda redis: redis.ping()):
                return False
        return bool(self._owners)

    async def close(self) -> None:
        """Close all connections; afterwards nothing is asked."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._owners = []
        for server in self._servers.values():
            await server.close()

    async def _asked(
        self, server: Server, question: Callable[[Redis], Awaitable[T]], name: str = ""
    ) -> T | None:
        try:
            answer = await server.ask(question, self._timeout)
        except Unanswered as failure:
            self._failed(server, failure, name)
            return None
        except Refused as refused:
            if refused.kind == "moved":
                self._stir()
            server.breaker.succeeded()
            raise
        server.breaker.succeeded()
        return answer

    async def _ready(self, timeout: float) -> None:
        """On the first use wait for the first contact, not longer than `timeout`; whoever comes later does not."""
        if self._reached.is_set() or self._closed:
            return
        self._stir()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._reached.wait()
        self._reached.set()

    def _failed(self, server: Server, failure: Unanswered, name: str = "") -> None:
        self._count("redis.failed")
        if self._servers.get(str(server)) is not server:
            return  # it has left meanwhile
        if server.breaker.failed(time.monotonic(), waited=failure.waited):
            server.missed = name
            if str(server) not in self._lost_since:
                self._lost_since[str(server)] = dt.datetime.now(dt.UTC)
                self._note("redis.lost", f"{server}: {failure.reason}")
            self._stir()

    def _returned(self, server: Server, words: str) -> None:
        if self._lost_since.pop(str(server), None):
            self._note("redis.returned", f"{server} {words}")

    # What follows happens in the background, while something is lost or not known.

    def _stir(self) -> None:
        self._stale = True
        self._wake.set()
        if not self._closed and (self._keeper is None or self._keeper.done()):
            self._keeper = asyncio.create_task(self._keep(), name="redis")

    async def _keep(self) -> None:
        """Look who keeps what, and probe what is lost, until all is well."""
        while True:
            self._wake.clear()
            back = await asyncio.gather(*(self._probe(each) for each in list(self._servers.values())))
            if self._stale and time.monotonic() >= self._look_at:
                await self._look()
            self._reached.set()
            for server in back:
                if server is not None and server.breaker.closed:
                    self._returned(server, "is back")
            due = [
                each.breaker.probe_at for each in self._servers.values() if each.breaker.probe_at is not None
            ]
            if self._stale:
                due.append(self._look_at)
            if not due:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(due) - time.monotonic())):
                    await self._wake.wait()

    async def _probe(self, server: Server) -> Server | None:
        """Probe a server when that is due; return it when it is back."""
        if not server.breaker.probe(time.monotonic()):
            return None
        answered = await server.probe(_PATIENCE * self._timeout)
        # Elsewhere a replica may have taken over; here the settings may have changed.
        self._stale = True
        if not server.breaker.probed(time.monotonic(), answered=answered):
            return None
        server.report, self._look_at = None, time.monotonic()
        return server

    async def _look(self) -> None:
        """Ask the servers in turn until one says who keeps what; where none does, its probes ask again."""
        found = await self._found()
        self._look_at = time.monotonic() + (_LOOK_SELDOM if self._problem else _LOOK_AGAIN)
        self._stale = not found and all(each.breaker.closed for each in self._servers.values())
        await asyncio.gather(*(self._inspect(each) for each in list(self._servers.values())))

    async def _found(self) -> bool:
        for server in list(self._servers.values()):
            if server.breaker.closed and await self._looked_at(server):
                return True
        for seed in self._seeds:
            if str(seed) not in self._servers and await self._looked_at(self._server(seed)):
                return True
        return False

    async def _looked_at(self, server: Server) -> bool:
        report = await self._inspect(server)
        if report is None:
            return False
        self._problem = self._mistaken(server, report)
        if self._problem:
            server.report = None
            return False
        if not report.cluster:
            self._owners = [server] * SLOTS
            return True
        try:
            found = await server.slots(_PATIENCE * self._timeout)
        except Unanswered as failure:
            self._failed(server, failure)
            return False
        await self._take(found, server.target)
        return True

    def _mistaken(self, server: Server, report: Report) -> str:
        """Say what does not fit between the configuration and a server."""
        if len(self._seeds) > 1 and not report.cluster:
            return (
                f"redis is off: {server} is no member of a cluster, but objects.redis names several servers"
            )
        if server.target.path and report.cluster:
            return f"redis is off: {server} leads to one member of a cluster; name it by host and port"
        return ""

    async def _take(self, found: list[Span], asked: Target) -> None:
        """Take up who keeps what, and leave those who keep nothing any more."""
        placed: list[tuple[Span, Server]] = []
        for span in found:
            try:
                placed.append((span, self._server(asked.sibling(span.host, span.port))))
            except BadConfig as refused:
                self._problem = refused.message
        keepers = {str(server) for _, server in placed}
        self._owners = owners(placed)
        for name in [each for each in self._servers if each not in keepers]:
            gone = self._servers.pop(name)
            self._returned(gone, "is not a master any more")
            await gone.close()

    async def _inspect(self, server: Server) -> Report | None:
        """Return what the server says about itself, asked once after each loss."""
        if server.report is not None or not server.breaker.closed:
            return server.report
        try:
            return await server.inspect(_PATIENCE * self._timeout)
        except Unanswered as failure:
            failure.waited = True  # one failure is enough: the probes ask again
            self._failed(server, failure)
            return None

    def _server(self, target: Target) -> Server:
        name = str(target)
        if name not in self._servers:
            self._servers[name] = Server(target, self._password, self._tls, self._connections)
        return self._servers[name]

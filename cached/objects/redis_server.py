"""One Redis server, asked through redis-py with a deadline for the whole question and no retries.

redis-py's own limits hold for each socket operation, and its defaults ask ten times: a server that hangs would
hold a reader for a minute. The library is loaded when the first server is made, so that a node without Redis
does not need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cached.errors import BadConfig
from cached.objects.breaker import Breaker
from cached.objects.redis_slots import Span, spans
from cached.objects.redis_url import Target

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")


class Unanswered(Exception):
    """A server gave no answer that can be used, for this reason; `waited` when somebody had to wait for it."""

    def __init__(self, reason: str, *, waited: bool) -> None:
        super().__init__(reason)
        self.reason, self.waited = reason, waited


class Refused(Exception):
    """A healthy server did not do this one thing: it is `full`, the name has `moved` or holds a `strange` thing."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Report(msgspec.Struct, frozen=True):
    """What a server says about itself: whether it is a member of a cluster, and what an operator should change."""

    cluster: bool
    troubles: tuple[str, ...]


class Server:
    """A server, its connections, and the breaker that says whether it may be asked."""

    def __init__(self, target: Target, password: str, tls: ssl.SSLContext | None, connections: int) -> None:
        self.target = target
        self.breaker = Breaker()
        #: Questions to it under way.
        self.asking = 0
        #: The name of the last question that was not answered; a probe asks for it again.
        self.missed = ""
        #: What it said about itself; None until it was asked since it was last lost.
        self.report: Report | None = None
        self._client = _client(target, password, tls, connections)

    def __str__(self) -> str:
        return str(self.target)

    async def ask(self, question: Callable[[Redis], Awaitable[T]], timeout: float) -> T:
        """Return the answer, within `timeout` seconds.

        Raises:
            Unanswered: there was none, for whatever reason.
            Refused: the server is well, but will not do this.
        """
        import redis.exceptions as failures

        loop = asyncio.get_running_loop()
        began = loop.time()
        self.asking += 1
        try:
            async with asyncio.timeout(timeout):
                return await question(self._client)
        except (TimeoutError, failures.TimeoutError):
            raise Unanswered(f"no answer within {timeout:g} s", waited=True) from None
        except failures.ResponseError as error:
            if kind := _kind(error):
                raise Refused(kind) from None
            raise Unanswered(str(error), waited=False) from None
        except Exception as error:  # noqa: BLE001 - whatever the library meets, it is no answer
            waited = loop.time() - began > timeout / 2
            raise Unanswered(str(error) or type(error).__name__, waited=waited) from None
        finally:
            self.asking -= 1

    async def probe(self, timeout: float) -> bool:
        """Ask again what was not answered, over a new connection; return whether there is an answer now."""
        missed = self.missed
        await self._client.connection_pool.disconnect(inuse_connections=False)
        try:
            await self.ask(lambda redis: redis.getrange(missed, 0, 0) if missed else redis.ping(), timeout)
        except Unanswered:
            return False
        except Refused:
            return True
        return True

    async def inspect(self, timeout: float) -> Report:
        """Ask the server about itself; raises `Unanswered`."""
        try:
            facts: dict[str, Any] = await self.ask(lambda redis: redis.info(), timeout)
            saves = await self._saves(timeout)
        except Refused as refused:
            raise Unanswered(refused.kind, waited=False) from None
        words = [f"redis {self}: {word}" for word in _troubles(facts, saves)]
        self.report = Report(bool(facts.get("cluster_enabled")), tuple(words))
        return self.report

    async def slots(self, timeout: float) -> list[Span]:
        """Ask a member of a cluster who keeps what; raises `Unanswered`."""

        async def question(redis: Redis) -> list[Span]:
            return spans(await redis.execute_command("CLUSTER SLOTS"), self.target.host)  # type: ignore[no-untyped-call]

        try:
            return await self.ask(question, timeout)
        except Refused as refused:
            raise Unanswered(refused.kind, waited=False) from None

    async def close(self) -> None:
        """Close all connections; never raises."""
        with contextlib.suppress(Exception):
            await self._client.aclose()

    async def _saves(self, timeout: float) -> bool:
        """Tell whether the server writes snapshots; False too where it does not let its settings be read."""
        import redis.exceptions as failures

        async def question(redis: Redis) -> bool:
            try:
                return bool((await redis.config_get("save")).get("save"))
            except failures.ResponseError:
                return False

        return await self.ask(question, timeout)


def tls_context(target: Target) -> ssl.SSLContext | None:
    """Return how to speak TLS to a server, None for one without; only authorities of `ca` are trusted then.

    Raises:
        BadConfig: the file cannot be read, or holds no certificates.
    """
    if not target.tls:
        return None
    try:
        return ssl.create_default_context(cafile=target.ca or None)
    except OSError as error:
        raise BadConfig(
            f"objects.redis: cannot take certificates from {target.ca}: {error.strerror or error}",
            hint="ca names a PEM file with the authority that signed the server's certificate",
        ) from None


def _client(target: Target, password: str, tls: ssl.SSLContext | None, connections: int) -> Redis:
    from redis.asyncio import Redis
    from redis.asyncio.connection import Connection, ConnectionPool, UnixDomainSocketConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "db": target.db,
        "username": target.username or None,
        "password": password or None,
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    kind: type[Any] = Connection if tls is None else _tls_connection(tls)
    if target.path:
        kind = UnixDomainSocketConnection
        options |= {"path": target.path}
    else:
        options |= {"host": target.host, "port": target.port}
    # More connections than readers may use, for what is asked in the background.
    pool = ConnectionPool(connection_class=kind, max_connections=connections + 4, **options)
    return Redis.from_pool(pool)


def _tls_connection(context: ssl.SSLContext) -> type[Any]:
    """Return a kind of connection that shares one context: the library reads all authorities for each."""
    from redis.asyncio.connection import SSLConnection

    class Shared(SSLConnection):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.ssl_context.context = context

    return Shared


def _kind(error: Exception) -> str:
    """Return what a server refuses although it is well; empty when it is not."""
    from redis.exceptions import AskError, MovedError, OutOfMemoryError, TryAgainError

    if isinstance(error, OutOfMemoryError):
        return "full"
    if isinstance(error, MovedError | AskError | TryAgainError):
        return "moved"
    return "strange" if str(error).startswith("WRONGTYPE") else ""


def _troubles(facts: dict[str, Any], saves: bool) -> list[str]:
    """Say in words what is not as a cache needs it."""
    found = []
    if facts.get("maxmemory_policy") == "noeviction":
        found.append("when full it refuses to store (noeviction): set maxmemory-policy to allkeys-lfu")
    if facts.get("maxmemory") == 0:
        found.append("it may take all memory: set maxmemory")
    if saves or facts.get("aof_enabled"):
        found.append('it writes what it holds to its disk: set save "" and appendonly no')
    return found

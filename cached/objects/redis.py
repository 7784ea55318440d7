"""The tier for small objects that the nodes of a cluster share: a Redis server, or a Redis Cluster.

It may vanish at any moment: what it does not answer within `timeout` is a miss, and while it is lost it is not
asked but probed in the background, so that no reader pays for it more than once a back-off (`breaker`). It may
be read and written by others: values are sealed and bound to their key (`sealed`). Of a cluster one master
that is lost takes nothing with it but its own keys (`redis_members`). Why: docs/adr/0013.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from cached.errors import BadConfig
from cached.objects.redis_members import Members
from cached.objects.redis_server import Refused, tls_context
from cached.objects.redis_url import Target, check, targets
from cached.objects.sealed import NONCE, OVERHEAD, Seal
from cached.peers.keyfile import read_private

__all__ = ["MAX_VALUE", "RedisTier", "check"]

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes from which on encryption leaves the loop: it takes milliseconds for the largest values.
_LONG: Final = 64 << 10
#: Longest sealed value, in bytes: Redis rounds memory up to powers of two, and adds a little for itself.
MAX_SEALED: Final = (1 << 20) - 64
MAX_VALUE: Final = MAX_SEALED - OVERHEAD
#: Seconds that a reader waits for an answer, at most.
TIMEOUT: Final = 0.25
#: Questions to one server under way, at most; what comes on top is a miss.
CONNECTIONS: Final = 64
OLD_KEY_FILE: Final = (
    "redis is off: the key file is older than secrets of clusters; add the same line "
    '"secret": "64 HEX DIGITS" to the key files of all nodes (openssl rand -hex 32), and restart'
)


class RedisTier:
    """Get, set and delete values that all nodes with the same secret share. Nothing here fails its caller."""

    def __init__(
        self,
        url: str,
        secret: bytes | None,
        *,
        max_value: int = MAX_VALUE,
        timeout: float = TIMEOUT,
        connections: int = CONNECTIONS,
        count: Callable[[str], None] = lambda event: None,
        note: Callable[[str, str], None] = lambda event, words: None,
    ) -> None:
        """Prepare the tier; nothing is dialled before `begin`, or the first use.

        `count` hears of everything that went otherwise than wanted, `note` once of each loss and return. Without
        a secret the tier is off.

        Raises:
            BadConfig: the URL is refused (`check`), or a file that it names cannot be used.
        """
        self.max_value = min(max_value, MAX_VALUE)
        seeds = targets(url)
        self._seal = None if secret is None else Seal(secret)
        self._old_key_file = secret is None
        self._count = count
        self._members = Members(
            seeds,
            password=_password(seeds[0]),
            tls=tls_context(seeds[0]),
            timeout=timeout,
            connections=connections,
            count=count,
            note=note,
        )

    @property
    def state(self) -> str:
        """`on`, `off`, or `lost since ...` (RFC 3339, UTC); of a cluster also how many servers."""
        return "off" if self._seal is None else self._members.state

    @property
    def troubles(self) -> list[str]:
        """What an operator should look at, in words; empty when all is well."""
        return [OLD_KEY_FILE] if self._old_key_file else self._members.troubles

    def begin(self) -> None:
        """Look in the background whether the servers are there, and as a cache needs them: `troubles` says so then."""
        if self._seal is not None:
            self._members.begin()

    async def get(self, key: str) -> bytes | None:
        """Return the value of `key`; None when there is none, or it cannot be had now."""
        if (seal := self._seal) is None:
            return None
        name = seal.name(key)
        try:
            # Never more than a value can have; a name that is not there gives no bytes, a sealed value some.
            sealed = await self._members.ask(name, lambda redis: redis.getrange(name, 0, MAX_SEALED))
        except Refused as refused:
            if refused.kind != "strange":
                self._count(f"redis.{refused.kind}")
                return None
            sealed = b"strange"
        if not isinstance(sealed, bytes) or not sealed:
            return None
        value = await _aside(len(sealed), seal.open, key, sealed)
        if value is None:
            self._count("redis.forged")
            await self._discard(name)
        return value

    async def set(self, key: str, value: bytes, ttl_seconds: int) -> bool:
        """Keep a value for so long, at most; return whether it is there now.

        What is larger than `max_value` is not sent: it could displace everything else.
        """
        if (seal := self._seal) is None or ttl_seconds <= 0:
            return False
        if len(value) > self.max_value:
            self._count("redis.too_large")
            return False
        name = seal.name(key)
        sealed = await _aside(len(value), seal.seal, key, value, os.urandom(NONCE))
        try:
            return bool(await self._members.ask(name, lambda redis: redis.set(name, sealed, ex=ttl_seconds)))
        except Refused as refused:
            self._count(f"redis.{refused.kind}")
            return False

    async def delete(self, keys: Iterable[str]) -> int:
        """Remove values; return how many there were. What a lost server keeps, ends with its time to live."""
        if self._seal is None:
            return 0
        names = [self._seal.name(key) for key in keys]
        return sum([await self._discard(name) for name in names])

    async def ping(self) -> bool:
        """Tell whether all servers answer; the first use dials them."""
        return self._seal is not None and await self._members.ping()

    async def close(self) -> None:
        """Close all connections; afterwards everything is a miss."""
        self._seal = None
        await self._members.close()

    async def _discard(self, name: str) -> int:
        try:
            return await self._members.ask(name, lambda redis: redis.unlink(name)) or 0
        except Refused as refused:
            self._count(f"redis.{refused.kind}")
            return 0


async def _aside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do the work, in a thread when it is long."""
    return work(*args, **kwargs) if size < _LONG else await asyncio.to_thread(work, *args, **kwargs)


def _password(target: Target) -> str:
    """Return the password, from its file if it lies in one; raises `BadConfig`."""
    if not target.password_file:
        return target.password
    try:
        return read_private(Path(target.password_file)).decode().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        raise BadConfig(
            f"objects.redis: {target.password_file} is not a file with a password",
            hint="write the password there, owned by the daemon's user, mode 0600",
        ) from None

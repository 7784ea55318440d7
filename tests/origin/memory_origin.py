"""An origin in memory, for tests of what stands above it: the same calls, counters, rights by token, faults at will."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import google_crc32c
import msgspec
from cached.addresses import Address
from cached.errors import CachedError, Forbidden, IntegrityFailed, NotFound, OriginChanged, UsageError
from cached.origin.origin import MOST_AT_ONCE, PART, Progress
from cached.origin.values import ANONYMOUS, NODE_ACCOUNT, OriginStats, Page, Pinned

EVERYBODY = "*"
#: Called before each request: what kind it is (stat list media upload delete), of which object.
Before = Callable[[str, Address], Awaitable[None]]


class MemoryOrigin:
    """`Origin` as a dictionary.

    A bucket without grants is open to everybody; `allow` makes it closed to everybody else. Rights are by token;
    the node's own account may do everything unless `deny` says otherwise.
    """

    def __init__(self) -> None:
        self.stats = OriginStats()
        #: Awaited before each request; raise or wait in it.
        self.before: Before | None = None
        #: Tokens in the order of the requests, with their kind and the object.
        self.asked: list[tuple[str, str | None, Address]] = []
        self._buckets: dict[str, dict[str, tuple[Pinned, bytes]]] = {}
        self._grants: dict[tuple[str, str | None], tuple[bool, bool]] = {}
        self._denied: set[tuple[str, str | None, str]] = set()
        self._expired: set[str] = set()
        self._failures: list[list[object]] = []
        self._generation = time.time_ns() // 1000
        #: Names in one page of a listing.
        self.page = 1000
        self.closed = False

    # What a test says and sees.

    @property
    def counts(self) -> Counter[str]:
        """Requests by kind."""
        return self.stats.requests

    def bucket(self, name: str) -> None:
        """Make a bucket."""
        self._buckets.setdefault(name, {})

    def store(self, bucket: str, name: str, data: bytes, **meta: object) -> Pinned:
        """Put an object there as if somebody else had; `meta` are fields of `Pinned`. A new generation each time."""
        self.bucket(bucket)
        self._generation += 1
        pinned = Pinned(bucket, name, self._generation, len(data), google_crc32c.value(data))
        pinned = msgspec.structs.replace(pinned, **meta)
        self._buckets[bucket][name] = (pinned, data)
        return pinned

    def content(self, bucket: str, name: str) -> bytes:
        """Return what is stored; raises KeyError."""
        return self._buckets[bucket][name][1]

    def remove(self, bucket: str, name: str) -> None:
        """Delete an object as if somebody else had."""
        del self._buckets[bucket][name]

    def allow(self, bucket: str, token: str | None, *, read: bool = True, write: bool = False) -> None:
        """Let those in who come with this token, and close the bucket to those without a grant."""
        self._grants[bucket, token] = (read, write)

    def deny(self, bucket: str, token: str | None, name: str = EVERYBODY) -> None:
        """Keep a token from a bucket, or from one object."""
        self._denied.add((bucket, token, name))

    def expire(self, token: str) -> None:
        """From now on the token is refused."""
        self._expired.add(token)

    def fail(self, error: CachedError, *, kind: str = "", times: int = 1) -> None:
        """Raise `error` at the next requests of that kind, or of any."""
        self._failures.append([error, kind, times])

    # What `Origin` asks for.

    async def stat(self, address: Address, *, token: str | None) -> Pinned:
        """Return what the address stands for."""
        await self._enter("stat", address, token)
        return self._find(address)[0]

    async def pages(
        self, bucket: str, prefix: str, *, token: str | None, delimiter: str = ""
    ) -> AsyncIterator[Page]:
        """Yield what lies below a prefix, `page` names at a time."""
        await self._enter("list", Address(bucket, prefix), token)
        objects = dict(self._in(bucket))
        told: dict[str, Pinned | None] = {}
        for name in sorted(objects, key=str.encode):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                told[prefix + head + found if found else name] = None if found else objects[name][0]
        names = list(told)
        for start in range(0, max(1, len(names)), self.page):
            if start:
                await self._enter("list", Address(bucket, prefix), token)
            some = names[start : start + self.page]
            yield Page(
                [pinned for name in some if (pinned := told[name]) is not None],
                tuple(name for name in some if told[name] is None),
            )

    async def list(self, bucket: str, prefix: str, *, token: str | None) -> AsyncIterator[Pinned]:
        """Yield objects in order of their names."""
        async for page in self.pages(bucket, prefix, token=token):
            for row in page.items:
                yield row

    async def read(self, pinned: Pinned, start: int, stop: int, *, token: str | None) -> bytes:
        """Return a range."""
        stop = min(stop, pinned.size)
        if start < 0 or stop - start > MOST_AT_ONCE:
            raise UsageError(f"{pinned.address}: bytes {start} to {stop} cannot be asked for")
        if start >= stop:
            return b""
        await self._enter("media", pinned.address, token)
        data = self._find(pinned.address)[1][start:stop]
        self.stats.moved(received=len(data))
        return data

    async def fetch(
        self,
        pinned: Pinned,
        fd: int,
        *,
        token: str | None,
        progress: Progress | None = None,
        part: int = PART,
        parallel: int = 8,
    ) -> None:
        """Write all bytes to the descriptor, one range after the other."""
        crc = 0
        for start in range(0, pinned.size, part):
            data = await self.read(pinned, start, start + part, token=token)
            crc = google_crc32c.extend(crc, data)
            os.pwrite(fd, data, start)
            if progress is not None:
                progress(start + len(data))
        if crc != pinned.crc32c:
            raise IntegrityFailed(f"{pinned.address}: crc32c differs")

    async def put(
        self,
        fd: int,
        size: int,
        address: Address,
        *,
        token: str | None,
        crc32c: int,
        if_generation: int | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        on_session: Callable[[str], None] | None = None,
        resume: str = "",
        reading: Callable[..., Any] | None = None,
        progress: Progress | None = None,
    ) -> Pinned:
        """Store what the descriptor holds."""
        await self._enter("upload", address, token, write=True)
        there = self._in(address.bucket).get(address.name)
        if if_generation is not None and if_generation != (there[0].generation if there else 0):
            raise OriginChanged(f"{address}: not of generation {if_generation}")
        data = await reading(lambda: os.pread(fd, size, 0)) if reading else os.pread(fd, size, 0)
        if len(data) != size or google_crc32c.value(data) != crc32c:
            raise IntegrityFailed(f"{address}: crc32c differs from the one announced")
        self.stats.moved(sent=size)
        if progress is not None:
            progress(size)
        return self.store(
            address.bucket, address.name, data, content_type=content_type, metadata=dict(metadata or {})
        )

    async def delete(self, address: Address, *, token: str | None) -> None:
        """Delete an object."""
        await self._enter("delete", address, token, write=True)
        there = self._in(address.bucket).get(address.name)
        if there and address.generation in (None, there[0].generation):
            del self._buckets[address.bucket][address.name]

    async def close(self) -> None:
        """Note that nobody wants it any more."""
        self.closed = True

    async def _enter(self, kind: str, address: Address, token: str | None, *, write: bool = False) -> None:
        self.stats.asked(kind)
        self.asked.append((kind, token, address))
        if self.before is not None:
            await self.before(kind, address)
        for failure in self._failures:
            error, wanted, times = failure
            if (
                wanted in ("", kind)
                and isinstance(times, int)
                and times > 0
                and isinstance(error, CachedError)
            ):
                failure[2] = times - 1
                raise error
        if token in self._expired:
            raise Forbidden(f"{address}: HTTP 401: the credentials have expired", hint="log in again")
        if not self._may(address, token, write=write):
            raise Forbidden(f"{address}: HTTP 403: denied", hint="ask for the right")

    def _may(self, address: Address, token: str | None, *, write: bool) -> bool:
        bucket = address.bucket
        if {(bucket, token, EVERYBODY), (bucket, token, address.name)} & self._denied:
            return False
        if token is NODE_ACCOUNT or not any(granted == bucket for granted, _ in self._grants):
            return True
        read_write = self._grants.get((bucket, token)) or self._grants.get(
            (bucket, ANONYMOUS), (False, False)
        )
        return read_write[1 if write else 0]

    def _in(self, bucket: str) -> dict[str, tuple[Pinned, bytes]]:
        if bucket not in self._buckets:
            raise NotFound(f"no bucket gs://{bucket}", bucket=bucket)
        return self._buckets[bucket]

    def _find(self, address: Address) -> tuple[Pinned, bytes]:
        there = self._in(address.bucket).get(address.name)
        if address.generation is not None and (there is None or there[0].generation != address.generation):
            raise OriginChanged(f"{address}: that generation is gone")
        if there is None:
            raise NotFound(f"no object {address}")
        return there

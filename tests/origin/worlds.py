"""An origin with things in it, once in memory and once Cloud Storage's client against the fake server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from cached.addresses import Address
from cached.origin.crc import crc32c
from cached.origin.gcs import Gcs
from cached.origin.origin import Origin
from cached.origin.values import Pinned
from tests.gcs.fake import FakeGcs
from tests.origin.memory_origin import MemoryOrigin

T = TypeVar("T")


class World(Protocol):
    """What tests say to the other side."""

    origin: Origin

    def bucket(self, name: str) -> None: ...
    def store(self, bucket: str, name: str, data: bytes, **meta: Any) -> int: ...
    def content(self, bucket: str, name: str) -> bytes: ...
    def allow(self, bucket: str, token: str, *, read: bool = True, write: bool = False) -> None: ...
    def know(self, token: str) -> None: ...
    def expire(self, token: str) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryOrigin()
        self.origin: Origin = self.memory
        self.bucket = self.memory.bucket
        self.content = self.memory.content
        self.allow = self.memory.allow
        self.expire = self.memory.expire

    def store(self, bucket: str, name: str, data: bytes, **meta: Any) -> int:
        return self.memory.store(bucket, name, data, **meta).generation

    def know(self, token: str) -> None:
        """All tokens are known."""


class AtFake:
    def __init__(self, fake: FakeGcs, origin: Gcs) -> None:
        self.fake = fake
        self.origin: Origin = origin
        self.bucket = fake.bucket
        self.store = fake.put
        self.content = fake.get
        self.expire = fake.expire

    def allow(self, bucket: str, token: str, *, read: bool = True, write: bool = False) -> None:
        self.know(token)
        self.fake.allow(bucket, f"user of {token}", read=read, write=write)

    def know(self, token: str) -> None:
        self.fake.tokens[token] = f"user of {token}"


def play(origin: Origin, scene: Callable[[], Awaitable[T]]) -> T:
    """Run a scene on a loop of its own and close the origin."""

    async def whole() -> T:
        try:
            return await asyncio.wait_for(scene(), 240)
        finally:
            await origin.close()

    return asyncio.run(whole())


def holding(data: bytes = b"") -> int:
    """A descriptor of a file in memory; the system takes it back with the process."""
    fd = os.memfd_create("origin-test")
    os.write(fd, data)
    return fd


def held(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


async def put(origin: Origin, address: Address, data: bytes, **how: Any) -> Pinned:
    how = {"token": None, "crc32c": crc32c(data), **how}
    return await origin.put(holding(data), len(data), address, **how)


async def fetched(origin: Origin, pinned: Pinned, **how: Any) -> bytes:
    fd = holding()
    await origin.fetch(pinned, fd, **{"token": None, **how})
    return held(fd)


async def everything(rows: AsyncIterator[Pinned]) -> list[Pinned]:
    return [row async for row in rows]

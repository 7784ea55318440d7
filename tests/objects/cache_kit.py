"""Caches of several nodes in one process, over real files and an origin in memory; calls between them are real calls."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import asynccontextmanager
from itertools import count as numbers

import msgspec
from cached.errors import PeerUnreachable
from cached.objects.account import Account
from cached.objects.cache import ObjectCache, Reader
from cached.objects.clear import clear
from cached.objects.freshness import Freshness
from cached.objects.homes import Homes
from cached.objects.neighbours import (
    BLOCK,
    CHANGED,
    CLEAR,
    GIVE,
    PART,
    RENEW,
    Asked,
    Changed,
    Clear,
    Given,
    Neighbours,
    PartWanted,
    Renewed,
)
from cached.objects.news import heard
from cached.objects.read import open_object
from cached.objects.tiers import Tiers
from cached.storage.objects import ObjectStore
from tests.origin.memory_origin import MemoryOrigin

MB = 1 << 20


class Pipe:
    """Where one node writes a stream and another reads it."""

    def __init__(self) -> None:
        self.queue = asyncio.Queue(4)

    def length(self, total):
        pass

    async def write(self, data):
        await self.queue.put(bytes(data))


class Town:
    """Nodes that know each other."""

    def __init__(self, tmp_path, *, block=64 * 1024) -> None:
        self.path = tmp_path
        self.block = block
        self.origin = MemoryOrigin()
        self.nodes = {}
        self.dead = set()
        #: A node was lost sight of.
        self.missing = False
        #: Nodes that see nobody else, and that nobody sees; they reach Cloud Storage all the same.
        self.cut_off = set()
        #: Calls by node and method.
        self.calls = Counter()
        self._ids = numbers()

    def node(
        self,
        *,
        memory=8 * MB,
        disk=8 * MB,
        window=0.0,
        sharing="permission",
        shared=None,
        name=None,
        block=None,
    ):
        """Make one more node."""
        me = name or f"{len(self.nodes) * 0x11111111:08x}".ljust(40, "0")
        counts = Counter()
        caps = {tier: cap for tier, cap in (("memory", memory), ("disk", disk)) if cap}
        stores = {tier: ObjectStore(self.path / me / tier) for tier in caps}
        tiers = Tiers(stores, caps, "boot")
        neighbours = Neighbours(
            me=me,
            present=lambda _user: self.seen(me),
            missing=lambda _seconds: self.missing,
            in_touch=lambda: 2 * len(self.seen(me)) > len(self.nodes),
            call=self.call(me),
            fetch=self.fetch,
        )
        homes = Homes(
            tiers,
            neighbours,
            count=lambda event: counts.update([event]),
            new_id=lambda: f"claim-{next(self._ids)}",
            now=time.monotonic,
            wall=time.time,
            block=block or self.block,
        )
        cache = ObjectCache(
            origin=self.origin,
            tiers=tiers,
            freshness=Freshness(window),
            neighbours=neighbours,
            homes=homes,
            account=Account(),
            shared=shared,
            sharing=sharing,
            block=block or self.block,
            now=time.monotonic,
            wall=time.time,
            note=lambda event, text, **facts: counts.update({event: 1}),
            count=lambda event, amount=1: counts.update({event: amount}),
        )
        cache.counts = counts
        self.nodes[me] = cache
        return cache

    def present(self):
        return [node for node in self.nodes if node not in self.dead | self.cut_off]

    def seen(self, me):
        return [me] if me in self.cut_off else self.present()

    def call(self, caller):
        async def call(node, method, body, timeout):
            self.calls[node, method] += 1
            if node in self.dead or node not in self.nodes or {node, caller} & self.cut_off:
                raise PeerUnreachable(f"node {node} does not answer")
            return msgspec.to_builtins(
                await self._answer(caller, self.nodes[node], method, msgspec.to_builtins(body))
            )

        return call

    async def _answer(self, caller, cache, method, body):
        homes = cache.homes
        if method == BLOCK:
            return await homes.ask(caller, msgspec.convert(body, Asked))
        if method == GIVE:
            return await homes.give(caller, msgspec.convert(body, Given))
        if method == RENEW:
            return await homes.renew(caller, msgspec.convert(body, Renewed))
        if method == CHANGED:
            return await heard(cache, caller, msgspec.convert(body, Changed))
        assert method == CLEAR
        return await clear(cache, msgspec.convert(body, Clear))

    async def fetch(self, node, stream, query, timeout):
        assert stream == PART
        if node in self.dead:
            raise PeerUnreachable(f"node {node} does not answer")
        pipe = Pipe()

        async def send():
            try:
                await self.nodes[node].homes.send(msgspec.convert(query, PartWanted), pipe)
            finally:
                await pipe.queue.put(None)

        sending = asyncio.create_task(send())
        try:
            while (data := await pipe.queue.get()) is not None:
                yield data
            await sending
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    async def close(self):
        for cache in self.nodes.values():
            await cache.close()


@asynccontextmanager
async def town(tmp_path, count=1, **settings):
    """Make a town with nodes that are alike; yields it and the nodes."""
    made = Town(tmp_path, block=settings.pop("block", 64 * 1024))
    nodes = [made.node(**settings) for _ in range(count)]
    try:
        yield made, nodes
    finally:
        await made.close()


def ada(token="tok-ada", **more):
    return Reader(user="ada", token=token, **more)


def bob(token="tok-bob", **more):
    return Reader(user="bob", token=token, **more)


async def content(cache, reader, address, **more):
    """Open an object, and return its bytes and where they came from; None for bytes that are to be read through."""
    opened = await open_object(cache, reader, address, **more)
    if opened.fd < 0:
        return None, opened.tier
    try:
        return os.pread(opened.fd, opened.pinned.size + 1, 0), opened.tier
    finally:
        os.close(opened.fd)
        cache.tiers.release(opened.entry)

"""Beside a transfer: blocks set aside are given back, what has come goes to the device, leaves are made of it, and it
is measured how fast it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from cached.critical import to_the_end
from cached.errors import NoSpace
from cached.node.flight import Flight
from cached.node.node import Node
from cached.sets.manifest import Manifest
from cached.storage import durability
from cached.storage.disk import Store
from cached.storage.writeback import Writeback

#: Blocks set aside are looked after this often, in seconds, and given back so long before they are needed: as many
#: looks at the speed of the last one, and some bytes besides. What is free until then is anybody's who writes.
GIVE_WAY = 0.1
LOOKS = 3
AHEAD = 2 << 20
#: The leaves of what has come are made this often, in seconds.
PROVE = 0.5
#: It is looked at how much has come this often, in seconds, so that whoever looks once is told how fast it comes.
MEASURE = 0.5
#: What has come is written to the device once it is so much, or, where it is less, this often in seconds: a device is
#: as quick as a link, and what it has not got when the last byte comes is waited for.
WRITE_FROM = 16 << 20
WRITE_AHEAD = 1.0


@contextlib.asynccontextmanager
async def everything(node: Node, flight: Flight) -> AsyncIterator[None]:
    """Do all of this while the block runs, which brings the bytes."""
    async with proving(node, flight), giving_way(node, flight), writing(node, flight):
        with measured(flight):
            yield


@contextlib.asynccontextmanager
async def giving_way(node: Node, flight: Flight) -> AsyncIterator[None]:
    """Give the blocks set aside back while the bytes come that they were kept for; the first were when it began."""
    ballast = node.space.ballast(flight.txid)
    if ballast is None or not ballast.left:
        yield
        return

    async def give_way() -> None:
        given, came = AHEAD, 0
        while ballast.left:
            before, came = came, flight.progress.bytes_present - flight.linked.logical
            due = came + LOOKS * (came - before) + AHEAD
            if due > given:
                await asyncio.to_thread(ballast.use, due - given)
                given = due
            await asyncio.sleep(GIVE_WAY)

    async with _beside(node, "give way", give_way()):
        yield


async def gave_all(node: Node, flight: Flight) -> bool:
    """Give back at once whatever is still set aside; tell whether that was anything."""
    ballast = node.space.ballast(flight.txid)
    if ballast is None or not ballast.left:
        return False
    await asyncio.to_thread(ballast.use, ballast.left)
    return True


@contextlib.contextmanager
def measured(flight: Flight) -> Iterator[None]:
    """Have looked at how fast the bytes come, whoever asks and however seldom."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        flight.rate()
        timer = loop.call_later(MEASURE, look)

    look()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.asynccontextmanager
async def writing(node: Node, flight: Flight) -> AsyncIterator[None]:
    """Have what has come written to the device while the rest comes, so that the sync before the commit is short."""
    store, manifest = node.stores[node.shelf.replicas[flight.set_id].tier], flight.manifest
    if manifest is None or store.tier == "memory" or manifest.total_bytes <= AHEAD:
        yield
        return
    many = durability.is_many(manifest)
    work = _write_back(store, flight) if many else _write_ahead(store, flight, manifest)
    async with _beside(node, "write ahead", work):
        yield
    if flight.writeback is not None:
        flight.writeback.hurry()


@contextlib.asynccontextmanager
async def proving(node: Node, flight: Flight) -> AsyncIterator[None]:
    """Have the leaves made of what has come while the rest comes; `prove` makes those that are left."""
    loop = asyncio.get_running_loop()
    if flight.maker is None:
        yield
        return

    async def make() -> None:
        with contextlib.suppress(NoSpace):  # what was set aside for them is given back before `prove`
            while (maker := flight.maker) is not None:
                await asyncio.sleep(PROVE)
                if maker.waiting:
                    await loop.run_in_executor(node.provers, maker.make)

    async with _beside(node, "make leaves", make()):
        yield


async def prove(node: Node, flight: Flight) -> None:
    """Make the leaves that are left of a content that has come with coarse digests alone.

    Raises `IntegrityFailed` when what was received is not what these say, and `NoSpace`.
    """
    maker = flight.maker
    if maker is None:
        return
    flight.progress.state = "verifying"
    await gave_all(node, flight)
    begun = node.provers.submit(maker.finish)
    work = asyncio.wrap_future(begun)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        maker.stop()
        if not begun.cancel():
            await asyncio.gather(work, return_exceptions=True)
        raise


async def _write_ahead(store: Store, flight: Flight, manifest: Manifest) -> None:
    def write() -> None:
        with store.stage(flight.txid) as staging:
            staging.write_ahead(manifest)

    loop, begun = asyncio.get_running_loop(), 0
    when = loop.time()
    while True:
        await asyncio.sleep(GIVE_WAY)
        present = flight.progress.bytes_present
        if present - begun >= WRITE_FROM or (present > begun and loop.time() - when >= WRITE_AHEAD):
            begun, when = present, loop.time()
            await asyncio.to_thread(write)


async def _write_back(store: Store, flight: Flight) -> None:
    def begin() -> Writeback:
        with store.stage(flight.txid) as staging:
            return Writeback(staging.data_fd)

    flight.writeback = await to_the_end(asyncio.to_thread(begin), Writeback.close)
    told = flight.progress.bytes_present
    while True:
        await asyncio.sleep(GIVE_WAY)
        present = flight.progress.bytes_present
        flight.writeback.wrote(present - told)
        told = present


@contextlib.asynccontextmanager
async def _beside(node: Node, name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let work go on while the block runs; it ends with the block, which goes on when the work fails."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ended, Exception):
            node.counters.background_failed(name, ended)

"""Metadata from a peer: no more than the record allows for, in time, or else from the next holder."""

from __future__ import annotations

import asyncio
import dataclasses
import os

import msgspec
import pytest
from cached.errors import Busy, IntegrityFailed, NoSource, NoSpace
from cached.node import metadata
from cached.replication.transfer import Progress
from tests.node.fakes import caller, create_set, until, world

ALICE = caller("alice")
FILES = {"f": os.urandom(300_000), "dir/g": b"more", "empty": b""}


def sends(*chunks: bytes, every: float = 0.0):
    """A holder's end of the stream: these chunks, and the last one again and again."""
    sent = []

    async def serve(_peer, _query, writer):
        for chunk in chunks:
            sent.append(len(chunk))
            await writer.write(chunk)
        while chunks:
            await asyncio.sleep(every)
            sent.append(len(chunks[-1]))
            await writer.write(chunks[-1])

    serve.sent = sent
    return serve


def head(manifest: int, leaves: int, mtimes: int = -1) -> bytes:
    return msgspec.json.encode(metadata.Lengths(manifest=manifest, leaves=leaves, mtimes=mtimes)) + b"\n"


async def held(w):
    """Node a holds a set of which b has heard."""
    a, b = await w.node("a"), await w.node("b")
    view = await create_set(a, ALICE, "nr", FILES)
    await w.gossip()
    return a, b, b.shelf.known[view.id]


@pytest.mark.parametrize(
    ("chunks", "most"),
    [
        ((head(1 << 40, 0), b"x" * 65536), 1),
        ((head(100, 1 << 30), b"x" * 65536), 1),
        ((head(100, 32, 1 << 30), b"x" * 65536), 1),
        ((head(-1, 32), b"x"), 1),
        ((b"x" * 200,), 4),
        ((head(100, 32), b"x" * 100), 6),
    ],
)
def test_a_peer_that_claims_or_sends_more_than_the_record_allows_for_is_left_at_once(tmp_path, chunks, most):
    async def story():
        async with world(tmp_path) as w:
            a, b, known = await held(w)
            a.link.streams[metadata.STREAM] = serve = sends(*chunks)
            with pytest.raises(IntegrityFailed):
                await metadata.ask(b, a.id, known)
            assert len(serve.sent) <= most + 10  # what was on its way when the reader left
            assert b.metadata_coming == 0

    asyncio.run(story())


def test_a_record_that_justifies_anything_is_held_to_the_memory_of_the_machine(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, known = await held(w)
            huge = msgspec.structs.replace(known.record, bytes=2**60, files=2**40)
            a.link.streams[metadata.STREAM] = sends(head(100, 2**50), b"x" * 65536)
            with pytest.raises(NoSpace):
                await metadata.ask(b, a.id, dataclasses.replace(known, record=huge))
            assert b.metadata_coming == 0

    asyncio.run(story())


def test_what_many_peers_send_at_once_is_held_to_the_memory_together(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b, known = await held(w)
            half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // metadata.MEMORY_SHARE * 2 // 3
            huge = msgspec.structs.replace(known.record, bytes=2**60)
            large = dataclasses.replace(known, record=huge)
            a.link.streams[metadata.STREAM] = sends(head(100, half), b"x", every=0.05)
            first = asyncio.create_task(metadata.ask(b, a.id, large))
            await until(lambda: b.metadata_coming)
            with pytest.raises(Busy):
                await metadata.ask(b, a.id, large)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert b.metadata_coming == 0

    asyncio.run(story())


def test_a_peer_that_drips_is_left_for_the_next_holder(tmp_path, monkeypatch):
    async def story():
        async with world(tmp_path) as w:
            a, b, known = await held(w)
            honest = a.link.streams[metadata.STREAM]
            c = await w.node("c")
            c.link.streams[metadata.STREAM] = drip = sends(head(200, 32), b"x", every=0.01)
            monkeypatch.setattr(metadata, "GRACE", 0.5)
            with pytest.raises(NoSource, match="slowly"):
                await metadata.ask(b, c.id, known)
            assert len(drip.sent) < 200
            monkeypatch.setattr(metadata, "_holders", lambda *_: [c.id, a.id])
            a.consents.give(b.id, known.record.content)
            a.link.streams[metadata.STREAM] = honest
            found = await metadata.obtain(b, known, Progress())
            assert found.manifest.file_count == 3

    asyncio.run(story())


def test_the_metadata_of_a_set_of_many_small_files_directories_and_links_arrives(tmp_path):
    async def story():
        async with world(tmp_path) as w:
            a, b = await w.node("a"), await w.node("b")
            files = {f"d{number}/{'x' * 200}/f": b"1" * number for number in range(200)}
            view = await create_set(a, ALICE, "many", files)
            await w.gossip()
            a.consents.give(b.id, view.content)
            found = await metadata.ask(b, a.id, b.shelf.known[view.id])
            assert found.manifest.file_count == 200

    asyncio.run(story())

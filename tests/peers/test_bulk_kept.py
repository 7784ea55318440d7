from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from cached.errors import NotFound, PeerUnreachable
from cached.peers import bulk, bulk_source
from tests.peers.link_kit import linked

PATIENCE = 60.0


@pytest.fixture
def dialled(monkeypatch):
    """Connections for bulk that were made, by the port dialled."""
    made = []
    create = socket.create_connection

    def seen(address, *more):
        made.append(address[1])
        return create(address, *more)

    monkeypatch.setattr(bulk_source.socket, "create_connection", seen)
    return made


async def _echo(peer, query, writer):
    await writer.write(query["say"].encode())


def _all(source: bulk_source.BulkSource, size: int) -> bytes:
    buffer, got = memoryview(bytearray(size)), 0
    while got < size and (more := source.read_into(buffer[got:])):
        got += more
    return bytes(buffer[:got])


async def _said(link, node_id, words: str, size: int | None = None, read: int | None = None) -> bytes:
    size = len(words) if size is None else size
    source = await link.bulk(node_id, "echo", {"say": words}, PATIENCE, size)
    try:
        return await asyncio.to_thread(_all, source, size if read is None else read)
    finally:
        source.stop()
        source.close()


def test_a_connection_whose_stream_was_read_to_its_end_is_asked_again(tmp_path, key_file, dialled):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            said = [await _said(a, b_id, words) for words in ("one", "twice", "x" * 100_000)]
            assert said == [b"one", b"twice", b"x" * 100_000]
            assert dialled == [b.port]

    asyncio.run(scene())


def test_streams_at_the_same_time_have_a_connection_each_and_few_of_them_are_kept(
    tmp_path, key_file, dialled
):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            sources = [await a.bulk(b_id, "echo", {"say": "all"}, PATIENCE, 3) for _ in range(4)]
            for source in sources:
                assert await asyncio.to_thread(_all, source, 3) == b"all"
            for source in sources:
                source.close()
            assert len(dialled) == 4
            held = [await a.bulk(b_id, "echo", {"say": "all"}, PATIENCE, 3) for _ in range(4)]
            assert len(dialled) == 4 + 4 - bulk_source.EACH
            for source in held:
                source.close()

    asyncio.run(scene())


@pytest.mark.parametrize("case", ["not read to its end", "of unknown length", "refused"])
def test_a_connection_that_may_have_bytes_of_an_old_stream_is_not_asked_again(
    tmp_path, key_file, dialled, case
):
    async def never(peer, query, writer):
        raise NotFound("no such thing")

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            b.stream("never", never)
            if case == "refused":
                with pytest.raises(NotFound, match="no such thing"):
                    await a.bulk(b_id, "never", {}, PATIENCE, 4)
            elif case == "of unknown length":
                source = await a.bulk(b_id, "echo", {"say": "once"}, PATIENCE)
                assert await asyncio.to_thread(_all, source, 100) == b"once"
                source.close()
            else:
                assert await _said(a, b_id, "once", read=2) == b"on"
            assert await _said(a, b_id, "more") == b"more"
            assert dialled == [b.port] * 2

    asyncio.run(scene())


def test_what_is_refused_on_a_kept_connection_is_said_where_it_is_read(tmp_path, key_file, dialled):
    async def never(peer, query, writer):
        raise NotFound("no such thing")

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            b.stream("never", never)
            assert await _said(a, b_id, "one") == b"one"
            source = await a.bulk(b_id, "never", {}, PATIENCE, 4)
            with pytest.raises(PeerUnreachable, match="no such thing"):
                await asyncio.to_thread(_all, source, 4)
            source.close()
            assert await _said(a, b_id, "two") == b"two"
            assert dialled == [b.port] * 2

    asyncio.run(scene())


def test_a_stream_that_is_stopped_while_it_is_asked_for_anew_gives_nothing(
    tmp_path, key_file, dialled, monkeypatch
):
    monkeypatch.setattr(bulk, "KEPT", 0)
    monkeypatch.setattr(bulk_source, "_has_news", lambda _: False)

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            assert await _said(a, b_id, "one") == b"one"
            source = await a.bulk(b_id, "echo", {"say": "two"}, PATIENCE, 3)
            source.stop()
            with pytest.raises(PeerUnreachable, match="stopped"):
                await asyncio.to_thread(_all, source, 3)
            source.close()

    asyncio.run(scene())


def test_a_connection_that_the_other_end_did_not_keep_is_made_anew(tmp_path, key_file, dialled, monkeypatch):
    monkeypatch.setattr(bulk, "KEPT", 0)  # as a node of an earlier version, which keeps none

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            for words in ("one", "two"):
                assert await _said(a, b_id, words) == words.encode()
            assert dialled == [b.port] * 2

    asyncio.run(scene())


def test_an_end_that_comes_just_when_the_next_is_asked_for_is_no_failure(
    tmp_path, key_file, dialled, monkeypatch
):
    monkeypatch.setattr(bulk, "KEPT", 0)
    monkeypatch.setattr(bulk_source, "_has_news", lambda _: False)

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            for words in ("one", "two"):
                assert await _said(a, b_id, words) == words.encode()
            assert dialled == [b.port] * 2

    asyncio.run(scene())


def test_a_kept_connection_is_closed_when_its_time_is_over_and_with_the_link(tmp_path, key_file, monkeypatch):
    def idle(link) -> list[ssl.SSLSocket]:
        return [one[1] for one in link._kept._idle]

    async def scene():
        async with linked(tmp_path, key_file, "a", "b", "c") as ((a, _), (b, b_id), (c, c_id)):
            b.stream("echo", _echo)
            c.stream("echo", _echo)
            assert await _said(a, b_id, "one") == b"one"
            [to_b] = idle(a)
            monkeypatch.setattr(bulk_source, "KEEP_SECONDS", -1.0)
            assert await _said(a, c_id, "two") == b"two"
            [to_c] = idle(a)
            assert to_b.fileno() == -1
            await a.close()
            assert to_c.fileno() == -1
            assert not idle(a)

    asyncio.run(scene())


def test_a_revoked_node_gets_nothing_on_a_connection_that_it_kept(tmp_path, key_file, dialled, monkeypatch):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("echo", _echo)
            assert await _said(a, b_id, "one") == b"one"
            monkeypatch.setattr(b._handlers, "_revoked", lambda _: True)
            with pytest.raises(PeerUnreachable, match="revoked"):
                await _said(a, b_id, "two")
            assert dialled == [b.port]

    asyncio.run(scene())

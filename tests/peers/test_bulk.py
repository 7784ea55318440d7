from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading

import pytest
from cached.errors import NotFound, PeerUnreachable
from cached.peers import bulk, bulk_source
from tests.peers.link_kit import identity, linked

SOME = random.Random(7).randbytes(3_000_001)
PATIENCE = 120.0


async def _some(peer, query, writer):
    """Send what is asked for in pieces, in a buffer that is used again."""
    buffer = bytearray(700_000)
    for at in range(0, len(SOME), len(buffer)):
        part = SOME[at : at + len(buffer)]
        buffer[: len(part)] = part
        await writer.write(memoryview(buffer)[: len(part)])


def _all(source: bulk_source.BulkSource, size: int) -> bytes:
    buffer = memoryview(bytearray(size))
    got = 0
    while got < size and (more := source.read_into(buffer[got:])):
        got += more
    return bytes(buffer[:got])


async def _read(source: bulk_source.BulkSource, size: int) -> bytes:
    return await asyncio.to_thread(_all, source, size)


def test_a_stream_comes_whole_over_a_connection_of_its_own(tmp_path, key_file):
    asked = []

    async def some(peer, query, writer):
        asked.append((peer.node_id, query))
        await _some(peer, query, writer)

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, a_id), (b, b_id)):
            b.stream("some", some)
            source = await a.bulk(b_id, "some", {"x": 1}, PATIENCE)
            try:
                assert await _read(source, len(SOME) + 1) == SOME
            finally:
                source.close()
            assert asked == [(a_id, {"x": 1})]

    asyncio.run(scene())


def test_neither_end_holds_small_packets_back_for_an_acknowledgement(tmp_path, key_file, monkeypatch):
    undelayed = []
    wrap = ssl.SSLContext.wrap_socket

    def seen(context, connection, **how):
        undelayed.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return wrap(context, connection, **how)

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("some", _some)
            monkeypatch.setattr(ssl.SSLContext, "wrap_socket", seen)
            source = await a.bulk(b_id, "some", {}, PATIENCE)
            source.close()

    asyncio.run(scene())
    assert len(undelayed) == 2
    assert all(undelayed)


def test_a_reader_may_be_slow_and_many_may_read_at_once(tmp_path, key_file):
    async def slow(source):
        begin = await _read(source, 1000)
        await asyncio.sleep(0.1)
        return begin + await _read(source, len(SOME))

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("some", _some)
            sources = [await a.bulk(b_id, "some", {}, PATIENCE) for _ in range(2 * bulk.THREADS + 1)]
            assert set(await asyncio.gather(*map(slow, sources))) == {SOME}
            for source in sources:
                source.close()

    asyncio.run(scene())


def test_an_error_before_the_first_byte_keeps_its_type_and_a_later_one_ends_the_stream(tmp_path, key_file):
    async def never(peer, query, writer):
        raise NotFound("no such thing", hint="look elsewhere")

    async def broken(peer, query, writer):
        await writer.write(b"begin")
        raise NotFound("gone")

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("never", never)
            b.stream("broken", broken)
            with pytest.raises(NotFound, match="no such thing"):
                await a.bulk(b_id, "never", {}, PATIENCE)
            with pytest.raises(NotFound, match="no stream"):
                await a.bulk(b_id, "unknown", {}, PATIENCE)
            source = await a.bulk(b_id, "broken", {}, PATIENCE)
            assert await _read(source, 100) == b"begin"
            source.close()

    asyncio.run(scene())


def test_a_silent_stream_is_a_time_out_and_a_stopped_one_ends(tmp_path, key_file):
    async def silent(peer, query, writer):
        await writer.write(b"x")
        await asyncio.Event().wait()

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("silent", silent)
            source = await a.bulk(b_id, "silent", {}, 0.2)
            with pytest.raises(TimeoutError):
                await _read(source, 2)
            source.close()
            source = await a.bulk(b_id, "silent", {}, PATIENCE)
            assert await _read(source, 1) == b"x"
            reading = asyncio.ensure_future(_read(source, 1))
            source.stop()
            assert await reading == b""
            source.close()

    asyncio.run(scene())


def test_nobody_listens_is_said_as_what_it_is(tmp_path, key_file):
    async def scene():
        async with linked(tmp_path, key_file, "a") as ((a, _),):
            with pytest.raises(PeerUnreachable, match="no address"):
                await a.bulk("ab" * 20, "some", {}, PATIENCE)
            a.learned("ab" * 20, "127.0.0.1:1", reachable=True)
            with pytest.raises(PeerUnreachable, match="gives no stream"):
                await a.bulk("ab" * 20, "some", {}, PATIENCE)

    asyncio.run(scene())


def test_another_node_than_the_one_meant_gives_no_stream(tmp_path, key_file):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b", "c") as ((a, _), (b, b_id), (c, _)):
            b.stream("some", _some)
            c.stream("some", _some)
            a.learned(b_id, f"127.0.0.1:{c.port}", reachable=True)
            with pytest.raises(PeerUnreachable):
                await a.bulk(b_id, "some", {}, PATIENCE)

    asyncio.run(scene())


def test_a_stranger_gets_nothing_of_a_stream_and_occupies_no_thread(tmp_path, key_file, caplog):
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    foreign = identity(tmp_path, "foreign", None).client_context()
    foreign.verify_mode = ssl.CERT_NONE
    foreign.sslsocket_class = ssl.SSLSocket

    def ask(port: int, hello: bytes, context: ssl.SSLContext | None) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain:
            try:
                plain.sendall(hello)
                wire = context.wrap_socket(plain) if context else plain
                wire.sendall(b'{"stream": "some", "query": {}}\n')
                got = b""
                while chunk := wire.recv(4096):
                    got += chunk
            except OSError:
                return b""
            return got

    async def scene():
        async with linked(tmp_path, key_file, "a") as ((a, _),):
            a.stream("some", _some)
            wrong = (bulk.HELLO.replace(b"1", b"2"), None)
            for hello, context in [(bulk.HELLO, None), (bulk.HELLO, bare), (bulk.HELLO, foreign), wrong]:
                assert await asyncio.to_thread(ask, a.port, hello, context) == b""
            assert a.refused == 4
            assert not [one for one in threading.enumerate() if one.name.startswith("bulk")]

    asyncio.run(scene())
    assert not caplog.records


def test_a_link_that_closes_ends_its_streams(tmp_path, key_file):
    begun = asyncio.Event()

    async def endless(peer, query, writer):
        while True:
            await writer.write(bytes(1 << 20))
            begun.set()

    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("endless", endless)
            source = await a.bulk(b_id, "endless", {}, PATIENCE)
            await begun.wait()
            await b.close()
            try:
                while await _read(source, 1 << 20):
                    pass
            except PeerUnreachable:
                pass
            source.close()

    asyncio.run(asyncio.wait_for(scene(), PATIENCE))


def test_a_stream_keeps_within_the_budgets_of_both_ends_and_a_stopped_one_waits_for_no_turn(
    tmp_path, key_file
):
    async def scene():
        async with linked(tmp_path, key_file, "a", "b") as ((a, _), (b, b_id)):
            b.stream("some", _some)
            loop = asyncio.get_running_loop()
            for budget in (a.download, b.upload):
                budget.limit(2_000_000)
                begin, before = loop.time(), budget.taken
                source = await a.bulk(b_id, "some", {}, PATIENCE)
                assert await _read(source, len(SOME)) == SOME
                # A limit is a lower bound of the time, whatever the machine does; the last turn is not waited out.
                assert loop.time() - begin >= 1.0
                assert budget.taken - before == len(SOME)
                source.close()
                budget.limit(None)
            a.download.limit(1)
            source = await a.bulk(b_id, "some", {}, PATIENCE)
            reading = asyncio.ensure_future(_read(source, len(SOME)))
            async with asyncio.timeout(PATIENCE):
                while not a.download.waiting:
                    await asyncio.sleep(0.01)
            source.stop()
            assert len(await reading) < len(SOME)
            source.close()

    asyncio.run(scene())

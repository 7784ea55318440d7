"""The shared tier on a real Redis Cluster: one master that is lost takes nothing with it but its own keys."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from cached.objects.redis_slots import SLOTS, owners, slot, spans
from cached.objects.sealed import Seal
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from tests.objects.redis_kit import CACHE, SECRET, Server, Watched, eventually, free_port, needs_redis

SEAL = Seal(SECRET)
KEYS = [f"{number}" for number in range(60)]


@asynccontextmanager
async def opened(url: str, *args, **options):
    tier = Watched(url, *args, **options)
    try:
        yield tier
    finally:
        await tier.close()


def keeper(key: str) -> int:
    """Return the number of the master that keeps a key."""
    return next(number for number in range(3) if slot(SEAL.name(key)) < SLOTS * (number + 1) // 3)


@given(st.text("abcdef0123456789:", max_size=60))
def test_slots_are_those_of_the_library(name):
    assert slot(name) == key_slot(name.encode())


def test_each_slot_has_the_owner_that_the_cluster_says():
    answer = [[0, 99, [b"10.0.0.1", 7000, b"id"]], [200, SLOTS - 1, [b"", 7001, b"id"], [b"replica", 1]]]
    found = spans(answer, "asked")
    assert [(each.host, each.port) for each in found] == [("10.0.0.1", 7000), ("asked", 7001)]
    table = owners((span, span.port) for span in found)
    assert (table[0], table[99], table[100], table[199], table[200], table[-1]) == (
        7000,
        7000,
        None,
        None,
        7001,
        7001,
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        7,
        [7],
        [[1]],
        [[0, SLOTS, [b"h", 1]]],
        [[5, 4, [b"h", 1]]],
        [[0, 1, [b"h", 0]]],
        [[0, 1, [b"\xff", 1]]],
    ],
)
def test_what_is_no_answer_about_slots_is_refused(answer):
    with pytest.raises(ValueError, match="not "):
        spans(answer, "asked")


@needs_redis
def test_a_cluster_is_recognised_and_used_by_all_its_masters(cluster):
    async def main():
        async with opened(cluster.url) as tier:
            for key in KEYS:
                assert await tier.set(key, key.encode(), 600)
            assert [await tier.get(key) for key in KEYS] == [key.encode() for key in KEYS]
            assert await tier.ping()
            assert (tier.state, tier.troubles, tier.notes) == ("on", [], [])
            for number, server in enumerate(cluster.servers):
                with server.raw() as raw:
                    assert raw.dbsize() == [keeper(key) for key in KEYS].count(number) > 0
            assert await tier.delete(KEYS) == len(KEYS)
            assert not tier.counts

    asyncio.run(main())


@needs_redis
def test_any_member_that_lives_leads_to_the_others(cluster):
    async def main():
        dead = f"redis://127.0.0.1:{free_port()}"
        async with opened(f"{dead},{cluster.servers[2].url}") as tier:
            for key in KEYS:
                assert await tier.set(key, key.encode(), 600)
            assert tier.state == "on"

    asyncio.run(main())


@needs_redis
def test_one_master_lost_takes_its_own_keys_with_it_and_no_others(cluster):
    async def main():
        async with opened(cluster.url) as tier:
            for key in KEYS:
                assert await tier.set(key, key.encode(), 600)
            lost = cluster.servers[1]
            lost.kill()
            for _ in range(3):
                for key in KEYS:
                    assert await tier.get(key) == (None if keeper(key) == 1 else key.encode())
            assert tier.state.startswith("lost since")
            assert tier.state.endswith("(1 of 3 servers)")
            assert tier.noted() == ["redis.lost"]
            assert str(lost.port) in tier.notes[0][1]
            assert not await tier.ping()
            lost.start()
            await eventually(lambda: tier.state == "on")
            assert tier.noted() == ["redis.lost", "redis.returned"]
            mine = next(key for key in KEYS if keeper(key) == 1)
            await eventually(lambda: tier.set(mine, b"again", 600))
            assert await tier.get(mine) == b"again"

    asyncio.run(main())


@needs_redis
def test_one_master_that_hangs_is_waited_for_once_and_the_others_answer(cluster):
    async def main():
        async with opened(cluster.url, timeout=0.25) as tier:
            await eventually(tier.ping)
            for key in KEYS:
                await eventually(lambda key=key: tier.set(key, key.encode(), 600))
            await eventually(lambda: tier.state == "on")
            cluster.servers[0].freeze()
            try:
                hung = [key for key in KEYS if keeper(key) == 0]
                before = tier.counts["redis.failed"]
                assert [await tier.get(key) for key in hung] == [None] * len(hung)
                assert tier.counts["redis.failed"] == before + 1, "one reader waited, not each"
                for key in KEYS:
                    if keeper(key) != 0:
                        await eventually(lambda key=key: _is(tier.get(key), key.encode()))
            finally:
                cluster.servers[0].thaw()
            await eventually(lambda: tier.state == "on")
            for key in KEYS:
                await eventually(lambda key=key: _is(tier.get(key), key.encode()))

    asyncio.run(main())


async def _is(value, wanted) -> bool:
    return await value == wanted


@needs_redis
def test_a_slot_that_has_moved_is_found_again(cluster):
    async def main():
        async with opened(cluster.url) as tier:
            key = next(key for key in KEYS if keeper(key) == 0)
            assert await tier.set(key, b"value", 600)
            where = slot(SEAL.name(key))
            with cluster.servers[0].raw() as source, cluster.servers[2].raw() as target:
                source.delete(SEAL.name(key))
                new = target.execute_command("CLUSTER MYID").decode()
                for raw in (target, source):
                    raw.execute_command("CLUSTER SETSLOT", where, "NODE", new)
            assert not await tier.set(key, b"value", 600)
            assert tier.counts["redis.moved"] == 1
            await eventually(lambda: tier.set(key, b"value", 600))
            assert await tier.get(key) == b"value"
            assert tier.state == "on", "a cluster that is rebuilt is not lost"
            assert "redis.failed" not in tier.counts

    asyncio.run(main())


@needs_redis
def test_a_cluster_that_is_down_as_a_whole_is_lost_and_returns(cluster):
    for server in cluster.servers:
        with server.raw() as raw:
            raw.config_set("cluster-require-full-coverage", "yes")

    async def main():
        async with opened(cluster.url) as tier:
            for key in KEYS:
                assert await tier.set(key, key.encode(), 600)
            missing = next(
                number for number in range(SLOTS) if number not in {slot(SEAL.name(key)) for key in KEYS}
            )
            for server in cluster.servers:
                with server.raw() as raw:
                    raw.execute_command("CLUSTER DELSLOTS", missing)
            await eventually(lambda: _none(tier, KEYS))
            await eventually(lambda: tier.state.endswith("(3 of 3 servers)"))
            assert "cluster is down" in tier.notes[0][1]
            home = next(number for number in range(3) if missing < SLOTS * (number + 1) // 3)
            with cluster.servers[home].raw() as raw:
                raw.execute_command("CLUSTER ADDSLOTS", missing)
            await eventually(lambda: tier.state == "on")
            for key in KEYS:
                await eventually(lambda key=key: _is(tier.get(key), key.encode()))

    asyncio.run(main())


async def _none(tier, keys) -> bool:
    return [await tier.get(key) for key in keys] == [None] * len(keys)


@needs_redis
def test_a_member_elsewhere_is_not_spoken_to_without_tls(cluster):
    with cluster.servers[2].raw() as raw:
        raw.config_set("cluster-announce-ip", "192.0.2.7")

    async def main():
        async with opened(cluster.servers[2].url) as tier:
            assert not await tier.set(next(key for key in KEYS if keeper(key) == 2), b"value", 600)
            assert [trouble for trouble in tier.troubles if "192.0.2.7" in trouble and "TLS" in trouble]
            assert await tier.set(next(key for key in KEYS if keeper(key) == 0), b"value", 600)

    asyncio.run(main())


@needs_redis
def test_a_socket_of_one_member_is_refused_in_words(short):
    server = Server(short / "r", *CACHE, cluster=True)
    try:

        async def main():
            async with opened(server.unix_url) as tier:
                assert not await tier.set("key", b"value", 60)
                assert tier.state == "off"
                assert "host and port" in tier.troubles[0]

        asyncio.run(main())
    finally:
        server.kill()

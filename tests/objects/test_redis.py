"""The shared tier against a real Redis server: what it keeps, what it refuses, whom it believes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from cached.errors import BadConfig
from cached.objects.redis import MAX_SEALED, MAX_VALUE
from cached.objects.sealed import Seal
from tests.objects.redis_kit import CACHE, SECRET, Server, Watched, eventually, needs_redis

pytestmark = needs_redis
SEAL = Seal(SECRET)


@asynccontextmanager
async def opened(url: str, *args, **options):
    tier = Watched(url, *args, **options)
    try:
        yield tier
    finally:
        await tier.close()


@pytest.mark.parametrize("way", ["url", "unix_url"])
def test_a_value_is_kept_until_it_is_deleted(server, way):
    async def main():
        async with opened(getattr(server, way)) as tier, opened(server.url) as other:
            assert await tier.get("key") is None
            assert await tier.set("key", b"value", 60)
            assert await tier.get("key") == b"value"
            assert await other.get("key") == b"value", "another node has the same secret"
            assert await tier.set("key", b"", 60)
            assert await other.get("key") == b""
            assert await tier.delete(["key", "nothing"]) == 1
            assert await other.get("key") is None
            assert await tier.ping()
            assert (tier.state, tier.troubles, dict(tier.counts), tier.notes) == ("on", [], {}, [])

    asyncio.run(main())


def test_what_an_operator_should_change_is_said_before_anything_is_read(short):
    server = Server(short / "r", "--maxmemory-policy", "noeviction", "--maxmemory", "0")
    try:

        async def main():
            async with opened(server.url) as tier:
                tier.begin()
                await eventually(lambda: _says(tier, "set maxmemory"))

        asyncio.run(main())
    finally:
        server.kill()


async def _says(tier, words) -> bool:
    return any(words in trouble for trouble in tier.troubles)


def test_a_value_ends_with_its_time_to_live_and_never_stays_for_ever(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("key", b"value", 1000)
            with server.raw() as raw:
                assert 900 < raw.ttl(SEAL.name("key")) <= 1000
                raw.pexpire(SEAL.name("key"), 1)
            await eventually(lambda: _is_none(tier.get("key")))
            assert not await tier.set("key", b"value", 0)
            assert not tier.counts

    asyncio.run(main())


async def _is_none(value) -> bool:
    return await value is None


def test_who_reads_the_server_learns_neither_names_nor_values(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("gs://secret-bucket/name", b"secret value", 60)

    asyncio.run(main())
    with server.raw() as raw:
        names = raw.keys("*")
        assert [name.decode() for name in names] == [SEAL.name("gs://secret-bucket/name")]
        assert b"secret" not in raw.get(names[0])


def test_a_forged_value_is_a_miss_and_removed(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("key", b"value", 60)
            name = SEAL.name("key")
            with server.raw() as raw:
                for number, forged in enumerate(
                    [b"value", raw.get(name)[:-1] + b"x", b"\x01" * 2_000_000], 1
                ):
                    raw.set(name, forged)
                    assert await tier.get("key") is None
                    assert tier.counts["redis.forged"] == number
                    assert not raw.exists(name)
                raw.lpush(name, b"not a string")
                assert await tier.get("key") is None
                assert tier.counts == {"redis.forged": 4}
                assert not raw.exists(name)
            assert tier.state == "on"

    asyncio.run(main())


def test_a_value_moved_under_another_key_is_a_miss_and_removed(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("mine", b"my value", 60)
            with server.raw() as raw:
                raw.copy(SEAL.name("mine"), SEAL.name("yours"))
                assert await tier.get("yours") is None
                assert not raw.exists(SEAL.name("yours"))
            assert await tier.get("mine") == b"my value"
            assert tier.counts == {"redis.forged": 1}

    asyncio.run(main())


def test_two_clusters_on_one_server_do_not_meet(server):
    async def main():
        async with opened(server.url) as one, opened(server.url, b"t" * 32) as other:
            assert await one.set("key", b"one", 60)
            assert await other.get("key") is None
            assert await other.set("key", b"other", 60)
            assert await one.get("key") == b"one"
            assert not one.counts + other.counts

    asyncio.run(main())


def test_the_largest_value_just_fits_a_power_of_two_and_a_larger_one_is_not_sent(server):
    async def main():
        async with opened(server.url) as tier:
            assert await tier.set("large", b"x" * MAX_VALUE, 60)
            assert await tier.get("large") == b"x" * MAX_VALUE
            assert not await tier.set("larger", b"x" * (MAX_VALUE + 1), 60)
            assert tier.counts == {"redis.too_large": 1}
        async with opened(server.url, max_value=10) as tier:
            assert await tier.set("ten", b"x" * 10, 60)
            assert not await tier.set("eleven", b"x" * 11, 60)

    asyncio.run(main())
    with server.raw() as raw:
        assert raw.strlen(SEAL.name("large")) == MAX_SEALED
        assert raw.memory_usage(SEAL.name("large")) < 1.01 * (1 << 20)
        assert not raw.exists(SEAL.name("larger"))


def test_a_full_server_that_drops_nothing_refuses_values_and_goes_on_answering(short):
    server = Server(short / "r", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    try:

        async def main():
            async with opened(server.url) as tier:
                kept = [await tier.set(f"{number}", b"x" * MAX_VALUE, 60) for number in range(6)]
                assert kept[0]
                assert not kept[-1]
                assert tier.counts == {"redis.full": kept.count(False)}
                assert await tier.get("0") == b"x" * MAX_VALUE
                assert tier.state == "on"
                assert [word for word in tier.troubles if "noeviction" in word]

        asyncio.run(main())
    finally:
        server.kill()


def test_a_full_server_that_drops_what_is_wanted_least_goes_on_taking(short):
    server = Server(short / "r", "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lfu")
    try:

        async def main():
            async with opened(server.url) as tier:
                for number in range(30):
                    assert await tier.set(f"{number}", b"x" * MAX_VALUE, 60)
                assert not tier.counts

        asyncio.run(main())
        with server.raw() as raw:
            assert 0 < raw.dbsize() < 30
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--maxmemory", "64mb"], "maxmemory-policy"),
        (["--maxmemory-policy", "allkeys-lru"], "set maxmemory"),
        ([*CACHE, "--save", "3600 1"], 'save ""'),
        ([*CACHE, "--appendonly", "yes"], "appendonly no"),
    ],
)
def test_a_server_that_is_not_set_up_as_a_cache_is_named(short, options, word):
    server = Server(short / "r", *options)
    try:

        async def main():
            async with opened(server.url) as tier:
                assert await tier.ping()
                assert [word in trouble for trouble in tier.troubles] == [True]
                assert str(server.port) in tier.troubles[0]

        asyncio.run(main())
    finally:
        server.kill()


def test_a_password_is_needed_where_there_is_one_and_may_lie_in_a_file(short):
    server = Server(short / "r", *CACHE, "--requirepass", "open/sesame", user=":open/sesame")
    secret = short / "password"
    secret.touch(mode=0o600)
    secret.write_text("open/sesame\n")
    try:

        async def main():
            for url in (
                f"redis://:open%2Fsesame@127.0.0.1:{server.port}",
                f"{server.url}?password_file={secret}",
                f"unix://:open%2Fsesame@{server.socket}",
            ):
                async with opened(url) as tier:
                    assert await tier.set("key", b"value", 60)
                    assert await tier.get("key") == b"value"
            for url in (server.url, f"redis://:wrong@127.0.0.1:{server.port}"):
                async with opened(url) as tier:
                    assert await tier.get("key") is None
                    assert tier.state.startswith("lost since ")
                    assert "wrong" not in str(tier.notes) + str(tier.troubles).replace("wrong number", "")

        asyncio.run(main())
    finally:
        server.kill()


def test_a_password_file_that_others_can_read_is_refused(short):
    (short / "password").write_text("open")
    (short / "password").chmod(0o644)
    with pytest.raises(BadConfig, match="other users"):
        Watched(f"redis://127.0.0.1:1?password_file={short / 'password'}")
    with pytest.raises(BadConfig, match="not a file with a password"):
        Watched(f"redis://127.0.0.1:1?password_file={short / 'none'}")


def test_a_user_who_may_do_only_what_is_needed_is_enough(short):
    rule = (
        "user cached on >pass ~cached:* resetchannels -@all +getrange +set +unlink +ping +info +cluster|slots"
    )
    (short / "users").write_text(f"user default off\n{rule}\n")
    server = Server(short / "r", *CACHE, "--aclfile", str(short / "users"), user="cached:pass")
    try:

        async def main():
            async with opened(f"redis://cached:pass@127.0.0.1:{server.port}") as tier:
                await eventually(tier.ping)
                assert await tier.set("key", b"value", 60)
                assert await tier.get("key") == b"value"
                assert await tier.delete(["key"]) == 1
                assert not tier.troubles

        asyncio.run(main())
    finally:
        server.kill()


def test_more_questions_at_once_than_allowed_are_misses_that_nobody_waits_for(server):
    async def main():
        async with opened(server.url, connections=1) as tier:
            assert await tier.set("key", b"value", 60)
            found = await asyncio.gather(*(tier.get("key") for _ in range(20)))
            assert b"value" in found
            assert tier.counts == {"redis.busy": found.count(None)}
            assert found.count(None) > 0
            assert tier.state == "on"
            assert await tier.get("key") == b"value"

    asyncio.run(main())


def test_many_readers_at_once_each_get_their_own_value(server):
    async def main():
        async with opened(server.url) as tier:
            for number in range(50):
                assert await tier.set(f"{number}", b"%d" % number, 60)
            found = await asyncio.gather(*(tier.get(f"{number}") for number in range(50)))
            assert found == [b"%d" % number for number in range(50)]

    asyncio.run(main())


def test_without_a_secret_the_tier_is_off_and_says_why(server):
    async def main():
        async with opened(server.url, None) as tier:
            assert not await tier.set("key", b"value", 60)
            assert await tier.get("key") is None
            assert await tier.delete(["key"]) == 0
            assert not await tier.ping()
            assert tier.state == "off"
            assert "openssl rand -hex 32" in tier.troubles[0]

    asyncio.run(main())
    with server.raw() as raw:
        assert raw.dbsize() == 0


def test_a_closed_tier_answers_nothing_and_keeps_no_connection(server):
    async def main():
        tier = Watched(server.url)
        assert await tier.set("key", b"value", 60)
        await tier.close()
        assert tier.state == "off"
        assert await tier.get("key") is None
        assert not await tier.set("key", b"value", 60)
        assert not await tier.ping()

    asyncio.run(main())
    with server.raw() as raw:
        assert len(raw.client_list()) == 1

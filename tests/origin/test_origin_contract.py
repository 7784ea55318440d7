"""What every origin does: the one in memory that other tests use, and Cloud Storage's client against a server."""

from __future__ import annotations

import itertools
import os

import pytest
from cached.addresses import Address
from cached.errors import Forbidden, IntegrityFailed, NotFound, OriginChanged, UsageError
from cached.origin.crc import crc32c
from cached.origin.origin import MOST_AT_ONCE
from cached.origin.values import ANONYMOUS
from tests.origin.worlds import everything, fetched, holding, play, put

THERE = Address("b", "o")
ODD = [
    "a b",
    "50%",
    "x#7",
    "what?",
    "grüße/日本",
    "a//b",
    "dir/",
    "+&=;",
    "..a",
    '"quoted"',
    "a%2Fb",
    "tab\there",
]


def test_stat_says_what_an_object_is(world):
    generation = world.store("b", "o", b"hello", content_type="text/plain", metadata={"k": "v"})

    async def scene():
        return await world.origin.stat(THERE, token=None)

    found = play(world.origin, scene)
    assert (found.generation, found.size, found.crc32c) == (generation, 5, crc32c(b"hello"))
    assert (found.content_type, found.metadata, found.metageneration) == ("text/plain", {"k": "v"}, 1)
    assert found.address == Address("b", "o", generation)


def test_a_generation_that_was_demanded_and_is_gone_is_a_change(world):
    old = world.store("b", "o", b"old")

    async def scene():
        assert (await world.origin.stat(THERE.pinned(old), token=None)).size == 3
        world.store("b", "o", b"newer")
        with pytest.raises(OriginChanged, match=rf"gs://b/o#{old}"):
            await world.origin.stat(THERE.pinned(old), token=None)
        assert (await world.origin.stat(THERE, token=None)).size == 5

    play(world.origin, scene)


def test_what_is_absent_is_named(world):
    async def scene():
        with pytest.raises(NotFound, match="object") as missing:
            await world.origin.stat(THERE, token=None)
        assert "gs://b/o" in missing.value.message
        assert "bucket" not in missing.value.details
        with pytest.raises(NotFound, match="bucket") as missing:
            await world.origin.stat(Address("nowhere", "o"), token=None)
        assert "gs://nowhere" in missing.value.message
        assert missing.value.details["bucket"] == "nowhere"
        with pytest.raises(NotFound, match="bucket"):
            await everything(world.origin.list("nowhere", "", token=None))

    play(world.origin, scene)


def test_a_listing_is_in_order_and_goes_over_all_pages(world):
    names = sorted((f"run/{number:04}" for number in range(2100)), key=str.encode)
    for name in reversed([*names, "other", "run", "run/deep/er"]):
        world.store("b", name, b"")

    async def scene():
        rows = await everything(world.origin.list("b", "run/", token=None))
        assert [row.name for row in rows] == [*names, "run/deep/er"]
        assert all(row.generation and row.crc32c == 0 for row in rows)
        assert await everything(world.origin.list("b", "none", token=None)) == []

    play(world.origin, scene)


def test_with_a_delimiter_only_the_beginnings_of_what_lies_deeper_are_told_once_each(world):
    names = sorted((f"run/{number:04}" for number in range(1100)), key=str.encode)
    for name in [*names, "run/deep/er", "run/deep/est", "run/0500/x", "other/x"]:
        world.store("b", name, b"")

    async def scene():
        pages = await everything(world.origin.pages("b", "run/", token=None, delimiter="/"))
        assert [row.name for page in pages for row in page.items] == names
        assert [name for page in pages for name in page.prefixes] == ["run/0500/", "run/deep/"]
        assert all(len(page.items) + len(page.prefixes) <= 1000 for page in pages)
        (none,) = await everything(world.origin.pages("b", "none", token=None, delimiter="/"))
        assert (none.items, tuple(none.prefixes)) == ([], ())

    play(world.origin, scene)


def test_a_range_is_read_and_cut_at_the_end(world):
    data = os.urandom(1000)
    world.store("b", "o", data)

    async def scene():
        pinned = await world.origin.stat(THERE, token=None)
        for start, stop in itertools.combinations((0, 1, 499, 999, 1000, 1001, 5000), 2):
            assert await world.origin.read(pinned, start, stop, token=None) == data[start:stop]
        assert await world.origin.read(pinned, 7, 7, token=None) == b""

    play(world.origin, scene)


def test_a_range_that_is_too_large_or_before_the_beginning_is_refused(world):
    world.store("b", "o", bytes(MOST_AT_ONCE + 2))

    async def scene():
        pinned = await world.origin.stat(THERE, token=None)
        for start, stop in ((0, MOST_AT_ONCE + 1), (-1, 5)):
            with pytest.raises(UsageError):
                await world.origin.read(pinned, start, stop, token=None)
        assert len(await world.origin.read(pinned, 1, MOST_AT_ONCE + 1, token=None)) == MOST_AT_ONCE

    play(world.origin, scene)


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 100_000])
def test_an_object_is_fetched_with_progress_whatever_its_size(world, size):
    data = os.urandom(size)
    world.store("b", "o", data)
    heard: list[int] = []

    async def scene():
        pinned = await world.origin.stat(THERE, token=None)
        assert await fetched(world.origin, pinned, part=4096, parallel=3, progress=heard.append) == data

    play(world.origin, scene)
    assert heard == sorted(heard)
    assert heard[-1:] in ([size], [])
    assert world.origin.stats.requests["media"] == -(-size // 4096)
    assert world.origin.stats.bytes_in == size


def test_an_object_that_was_replaced_is_not_read(world):
    world.store("b", "o", b"old")

    async def scene():
        pinned = await world.origin.stat(THERE, token=None)
        world.store("b", "o", b"new")
        with pytest.raises(OriginChanged, match="gs://b/o"):
            await fetched(world.origin, pinned)
        with pytest.raises(OriginChanged, match="gs://b/o"):
            await world.origin.read(pinned, 0, 3, token=None)

    play(world.origin, scene)


def test_an_object_is_stored_as_it_is_described(world):
    async def scene():
        stored = await put(world.origin, THERE, b"hello", content_type="text/x", metadata={"who": "ada"})
        assert (stored.size, stored.crc32c, stored.content_type) == (5, crc32c(b"hello"), "text/x")
        found = await world.origin.stat(THERE, token=None)
        assert (found.generation, found.metadata["who"]) == (stored.generation, "ada")

    play(world.origin, scene)
    assert world.content("b", "o") == b"hello"
    assert world.origin.stats.bytes_out == 5


def test_an_empty_object_is_stored(world):
    async def scene():
        assert (await put(world.origin, THERE, b"")).size == 0

    play(world.origin, scene)
    assert world.content("b", "o") == b""


def test_conditions_on_the_generation_are_kept(world):
    async def scene():
        first = await put(world.origin, THERE, b"1", if_generation=0)
        with pytest.raises(OriginChanged, match="gs://b/o"):
            await put(world.origin, THERE, b"2", if_generation=0)
        second = await put(world.origin, THERE, b"3", if_generation=first.generation)
        with pytest.raises(OriginChanged):
            await put(world.origin, THERE, b"4", if_generation=first.generation)
        assert (await put(world.origin, THERE, b"5")).generation > second.generation

    play(world.origin, scene)
    assert world.content("b", "o") == b"5"


def test_bytes_that_are_not_those_announced_are_not_stored(world):
    async def scene():
        with pytest.raises(IntegrityFailed, match="gs://b/o"):
            await put(world.origin, THERE, b"hello", crc32c=1)
        with pytest.raises(IntegrityFailed):
            await world.origin.put(holding(b"short"), 9, THERE, token=None, crc32c=crc32c(b"short"))
        with pytest.raises(NotFound):
            await world.origin.stat(THERE, token=None)

    play(world.origin, scene)


def test_deleting_takes_the_generation_that_was_named_and_nothing_else(world):
    old = world.store("b", "o", b"old")
    new = world.store("b", "o", b"new")

    async def scene():
        await world.origin.delete(THERE.pinned(old), token=None)
        assert (await world.origin.stat(THERE, token=None)).generation == new
        await world.origin.delete(THERE.pinned(new), token=None)
        await world.origin.delete(THERE, token=None)
        with pytest.raises(NotFound):
            await world.origin.stat(THERE, token=None)

    play(world.origin, scene)


def test_each_request_is_made_as_whoever_asks(world):
    world.store("b", "o", b"secret")
    world.allow("b", "tok-ada", write=True)
    world.allow("b", "tok-bob", read=True)
    world.know("tok-eve")

    async def scene():
        pinned = await world.origin.stat(THERE, token="tok-ada")
        assert await world.origin.read(pinned, 0, 6, token="tok-bob") == b"secret"
        assert [row.name async for row in world.origin.list("b", "", token="tok-bob")] == ["o"]
        for token in ("tok-eve", ANONYMOUS):
            with pytest.raises(Forbidden, match="gs://b/o"):
                await world.origin.stat(THERE, token=token)
            with pytest.raises(Forbidden):
                await fetched(world.origin, pinned, token=token)
        with pytest.raises(Forbidden):
            await put(world.origin, THERE, b"mine", token="tok-bob")
        with pytest.raises(Forbidden):
            await world.origin.delete(THERE, token="tok-bob")
        await put(world.origin, THERE, b"hers", token="tok-ada")

    play(world.origin, scene)
    assert world.content("b", "o") == b"hers"


def test_credentials_that_expire_are_refused_with_a_hint(world):
    world.store("b", "o", b"x")
    world.allow("b", "tok-ada")

    async def scene():
        pinned = await world.origin.stat(THERE, token="tok-ada")
        world.expire("tok-ada")
        for asked in (
            world.origin.stat(THERE, token="tok-ada"),
            fetched(world.origin, pinned, token="tok-ada"),
        ):
            with pytest.raises(Forbidden, match="credentials") as refused:
                await asked
            assert refused.value.hint
            assert "tok-ada" not in str(refused.value.to_wire())

    play(world.origin, scene)


@pytest.mark.parametrize("name", ODD)
def test_odd_names_go_there_and_back(world, name):
    odd = Address("b", name)

    async def scene():
        stored = await put(world.origin, odd, name.encode(), if_generation=0)
        assert (await world.origin.stat(odd, token=None)).generation == stored.generation
        assert await fetched(world.origin, stored) == name.encode()
        assert [row.name for row in await everything(world.origin.list("b", name, token=None))] == [name]
        await world.origin.delete(odd, token=None)
        assert await everything(world.origin.list("b", "", token=None)) == []

    play(world.origin, scene)

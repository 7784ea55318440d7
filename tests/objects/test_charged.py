"""Whoever reads or writes is charged for it: where the bytes came from, and what Cloud Storage was asked."""

from __future__ import annotations

import asyncio
import os

from cached.addresses import Address
from cached.objects.cache import Reader
from cached.objects.read import count, open_now, open_object
from cached.objects.through import read_through
from cached.objects.write import Wish, put
from tests.objects.cache_kit import MB, ada, bob, content, town

ADDRESS = Address("b", "o")


def noting(cache):
    noted = []
    cache.charged = lambda *what: noted.append(what[:4])
    return noted


def test_a_miss_is_spent_and_a_hit_is_saved_by_whoever_reads(tmp_path):
    async def story():
        async with town(tmp_path) as (place, [node]):
            place.origin.store("b", "o", b"x" * 1000)
            noted = noting(node)
            await content(node, ada(scope="run-1"), ADDRESS)
            assert noted == [("ada", "run-1", {}, 1), ("ada", "run-1", {"origin": 1000}, 1)]
            noted.clear()
            await content(node, bob(), ADDRESS)
            assert noted == [("bob", "", {}, 1), ("bob", "", {"disk": 1000}, 0)]

    asyncio.run(story())


def test_within_the_freshness_window_nothing_is_asked_and_nothing_spent(tmp_path):
    async def story():
        async with town(tmp_path, window=3600.0) as (place, [node]):
            place.origin.store("b", "o", b"x" * 1000)
            await content(node, ada(), ADDRESS)
            noted = noting(node)
            await content(node, ada(), ADDRESS)
            assert noted == [("ada", "", {"disk": 1000}, 0)]

    asyncio.run(story())


def test_hits_in_memory_that_follow_each_other_are_counted_together_and_each_saves_a_request(tmp_path):
    async def story():
        async with town(tmp_path, window=3600.0) as (place, [node]):
            place.origin.store("b", "o", b"x" * 1000)
            opened = await open_object(node, ada(), ADDRESS, keep="memory")
            os.close(opened.fd)
            charged, before = [], node.account.places["memory"].reads
            node.charged = lambda *what: charged.append(what)
            for _ in range(3):
                copy = open_now(node, ada(), ADDRESS)
                assert copy.tier == "memory"
                os.close(copy.fd)
                count(node, ada(), copy)
                node.tiers.release(copy.entry)
            assert charged == [], "not yet"
            uses = opened.entry.frequency
            node.hits.settle()
            assert charged == [("ada", "", {"memory": 3000}, 0, 3)]
            assert node.account.places["memory"].reads == before + 3
            assert opened.entry.frequency == uses + 3
            node.hits.settle()
            assert len(charged) == 1

    asyncio.run(story())


def test_the_first_hit_of_another_user_is_counted_at_once(tmp_path):
    async def story():
        async with town(tmp_path, window=3600.0) as (place, [node]):
            place.origin.store("b", "o", b"x" * 1000)
            for reader in (ada(), bob(), ada()):
                opened = await open_object(node, reader, ADDRESS, keep="memory")
                os.close(opened.fd)
                assert opened.entry.users[-1] == reader.user

    asyncio.run(story())


def test_what_other_nodes_have_is_saved(tmp_path):
    async def story():
        async with town(tmp_path, 2) as (place, [one, other]):
            place.origin.store("b", "o", b"x" * 300_000)
            noted = [noting(one), noting(other)]
            await content(one, ada(), ADDRESS)
            await content(other, bob(), ADDRESS)
            parts = [what[2] for what in noted[1] if what[2]]
            assert sum(sum(part.values()) for part in parts) == 300_000
            assert not any("origin" in part for part in parts)

    asyncio.run(story())


def test_reading_through_and_writing_are_spent(tmp_path):
    async def story():
        async with town(tmp_path, memory=0, disk=MB) as (place, [node]):
            place.origin.store("b", "o", b"x" * (9 * MB))
            noted = noting(node)
            opened = await open_object(node, ada(), ADDRESS)
            assert opened.fd == -1
            async for _ in read_through(node, ada(), opened.pinned, 0, 9 * MB):
                pass
            spent = [what for what in noted if what[2]]
            assert sum(parts["origin"] for _, _, parts, _ in spent) == 9 * MB
            assert [operations for *_, operations in spent] == [1, 1, 1]
            noted.clear()
            fd = os.memfd_create("new")
            try:
                os.write(fd, b"y" * 500)
                await put(node, Reader(user="ada", token="tok-ada", scope="s"), Address("b", "n"), fd, Wish())
            finally:
                os.close(fd)
            assert noted == [("ada", "s", {"origin": 500}, 1)]

    asyncio.run(story())

"""What a member of the cluster that lies can do to the object cache: cost time, and nothing else."""

import asyncio
import os
from types import SimpleNamespace

import msgspec
import pytest
from cached.addresses import parse
from cached.api.peer_objects import PeerObjects
from cached.errors import Forbidden, NotFound, UsageError
from cached.node import objects, scopes
from cached.objects.gather import _give_back
from cached.objects.key import ObjectKey
from cached.objects.neighbours import (
    BLOCK,
    CHANGED,
    CLEAR,
    GIVE,
    PART,
    Answer,
    Asked,
    Changed,
    Clear,
    Given,
    Part,
    PartWanted,
)
from cached.objects.read import open_now
from cached.origin.crc import crc32c
from cached.peers.records import Peer
from tests.node.fakes import caller, world
from tests.objects.cache_kit import ada, content
from tests.objects.test_read import scene

HERE = parse("gs://genomes/chr1")
EVIL = b"other bytes"


def a_part(pinned, cache, size=None, **key):
    key = ObjectKey(pinned.bucket, pinned.name, pinned.generation, **key)
    return Part(key=key, size=pinned.size if size is None else size, block=cache.block, index=0)


async def planted(made, cache, pinned, data=EVIL):
    """Have the home take a part whose giver only says what its checksum is."""
    part = a_part(pinned, cache, size=len(data))
    answer = await cache.homes.ask("evil", Asked(part=part, user="ada"))
    assert answer.what == "fetch"

    async def send(*_):
        yield data

    object.__setattr__(cache.neighbours, "fetch", lambda *_: send())
    await cache.homes.give("evil", Given(part=part, claim=answer.claim, crc32c=crc32c(data), user="ada"))


def test_bytes_that_a_member_plants_are_never_read_as_the_object(tmp_path):
    async def body(made, cache):
        pinned = made.origin.store("genomes", "chr1", b"the object")
        await planted(made, cache, pinned)
        assert len(cache.tiers.index) == 1
        assert (await content(cache, ada(), HERE))[0] == b"the object"
        opened = open_now(cache, ada(), HERE)
        assert opened is not None
        assert os.pread(opened.fd, 100, 0) == b"the object"
        os.close(opened.fd)
        cache.tiers.release(opened.entry)

    scene(tmp_path, body, window=60.0)


def test_planted_bytes_are_not_served_in_an_open_window_either(tmp_path):
    async def body(made, cache):
        pinned = made.origin.store("genomes", "chr1", b"the object")
        await content(cache, ada(), HERE)
        for entry in list(cache.tiers.index):
            await cache.tiers.remove(entry, "room")
        await planted(made, cache, pinned)
        assert open_now(cache, ada(), HERE) is None
        assert (await content(cache, ada(), HERE))[0] == b"the object"

    scene(tmp_path, body, window=60.0)


def test_a_home_that_always_says_wait_is_waited_for_a_few_times_only(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"the object" * 100)

        async def wait(node, asked):
            return Answer(what="wait")

        object.__setattr__(cache.neighbours, "ask", wait)
        assert (await asyncio.wait_for(content(cache, ada(), HERE), 60))[0] == b"the object" * 100

    scene(tmp_path, body)


def test_a_gift_of_other_blocks_takes_no_room(tmp_path):
    async def body(made, cache):
        pinned = made.origin.store("genomes", "chr1", bytes(1000))
        part = a_part(pinned, cache)
        answer = await cache.homes.ask("evil", Asked(part=part, user="ada"))
        part = msgspec.structs.replace(part, block=1 << 30, size=1 << 30)
        assert (await cache.homes.ask("evil", Asked(part=part, user="ada"))).what == "alone"
        await cache.homes.give("evil", Given(part=part, claim=answer.claim, user="ada"))
        assert cache.counts["objects.gift_refused"] == 1
        assert all(room.used == room.reserved == 0 for room in cache.tiers.index.rooms.values())

    scene(tmp_path, body)


def test_a_member_speaks_for_the_users_of_its_domains_alone(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0")
            calls = {}
            node.link.handle = calls.__setitem__  # type: ignore[method-assign]
            node.link.stream = calls.__setitem__  # type: ignore[method-assign]
            PeerObjects(node).bind()
            evil = Peer(node_id="e" * 40, domains=frozenset({"evil.org"}))
            key = ObjectKey("genomes", "chr1", 7, "alice@a.org")
            part = Part(key=key, size=10, block=100, index=0)
            wrong = [
                (BLOCK, Asked(part=part, user="mallory@evil.org")),
                (GIVE, Given(part=part, claim="c", user="mallory@evil.org")),
                (
                    BLOCK,
                    Asked(part=msgspec.structs.replace(part, key=ObjectKey("b", "n", 7)), user="alice@a.org"),
                ),
            ]
            for method, body in wrong:
                with pytest.raises(Forbidden):
                    await calls[method](evil, msgspec.to_builtins(body))
            for user in ("", "mallory@evil.org"):
                query = msgspec.to_builtins(PartWanted(part=part, user=user))
                with pytest.raises(Forbidden):
                    await calls[PART](evil, query, None)

    asyncio.run(story())


def test_what_a_member_calls_an_object_is_one_or_nothing_is_done(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0")
            calls = {}
            node.link.handle = calls.__setitem__  # type: ignore[method-assign]
            node.link.stream = calls.__setitem__  # type: ignore[method-assign]
            PeerObjects(node).bind()
            evil = Peer(node_id="e" * 40, domains=frozenset({"evil.org"}))
            mallory = "mallory@evil.org"
            for bucket, name, generation in [
                ("genomes", "x" * (1 << 20), 7),
                ("genomes", "chr1\nINFO cached all is well", 7),
                ("../other", "chr1", 7),
                ("genomes", "", 7),
                ("genomes", "chr1", -1),
                ("genomes", "chr1", 1 << 63),
            ]:
                part = Part(key=ObjectKey(bucket, name, generation), size=10, block=100, index=0)
                for method, body in [
                    (BLOCK, Asked(part=part, user=mallory)),
                    (GIVE, Given(part=part, claim="c", user=mallory)),
                    (CHANGED, Changed(bucket=bucket, name=name, generation=generation)),
                ]:
                    with pytest.raises(UsageError):
                        await calls[method](evil, msgspec.to_builtins(body))
            part = Part(key=ObjectKey("genomes", "chr1", 7), size=10, block=100, index=0)
            for user in ("x" * 5000 + "@evil.org", "a\nb@evil.org"):
                with pytest.raises(UsageError):
                    await calls[BLOCK](evil, msgspec.to_builtins(Asked(part=part, user=user)))
                with pytest.raises(UsageError):
                    await calls[CLEAR](evil, msgspec.to_builtins(Clear(user=user)))
            with pytest.raises(UsageError):
                await calls[CLEAR](evil, msgspec.to_builtins(Clear(user=mallory, prefix="x" * 5000)))

    asyncio.run(story())


@pytest.mark.parametrize("bucket", ["../../upload", "results/o/x?alt=media&", "x" * 5000])
def test_what_a_member_says_was_written_for_a_scope_is_asked_about_only_if_it_can_be_an_object(
    tmp_path, bucket
):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0")

            async def lies(*_):
                said = scopes.Written(bucket=bucket, name="o", generation=1, bytes=1)
                return {"evil": {"items": [msgspec.to_builtins(said)]}}

            object.__setattr__(node.objects.neighbours, "tell", lies)
            (told,) = await scopes._end_origin(node, caller("ada"), "run7", "", dry_run=False)
            assert "names no bucket" in told.reason
            assert made.origin.counts["stat"] == 0

    asyncio.run(story())


def test_a_claim_is_given_back_where_users_have_domains_too(tmp_path):
    async def body(made, cache):
        given = []

        async def give(node, what):
            given.append(what)

        object.__setattr__(cache.neighbours, "give", give)
        job = SimpleNamespace(
            claims={"c": "home"},
            neighbours=cache.neighbours,
            user="ada@a.org",
            part=lambda index: a_part(made.origin.store("genomes", "chr1", b"x"), cache),
        )
        await _give_back(job)
        assert [(what.user, what.failed) for what in given] == [("ada@a.org", True)]

    scene(tmp_path, body)


def test_a_member_cannot_have_a_user_delete_what_was_not_written_for_the_scope(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node = await made.node("n0")
            thesis = made.origin.store("results", "thesis", b"years of work")

            async def lies(*_):
                said = scopes.Written(
                    bucket="results", name="thesis", generation=thesis.generation, bytes=thesis.size
                )
                return {"evil": {"items": [msgspec.to_builtins(said)]}}

            object.__setattr__(node.objects.neighbours, "tell", lies)
            told = await scopes._end_origin(node, caller("ada"), "run7", "", dry_run=False)
            assert "does not say" in told[0].reason
            assert made.origin.content("results", "thesis") == b"years of work"

    asyncio.run(story())


def test_a_scope_forgets_a_write_that_was_refused(tmp_path):
    async def story():
        async with world(tmp_path) as made:
            node, fd = await made.node("n0"), os.memfd_create("x")
            with pytest.raises(NotFound):
                await objects.put(
                    node, caller("ada"), parse("gs://absent/o"), fd, "", objects.PutOptions(scope="run7")
                )
            assert await scopes.known(node, "ada", "run7") == []
            os.close(fd)

    asyncio.run(story())

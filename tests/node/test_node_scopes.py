"""The end of a scope finds in Cloud Storage what was written for it, whatever happened meanwhile, and nothing else."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.addresses import parse
from cached.errors import Forbidden, NotFound, OriginChanged, OriginUnavailable
from cached.node import objects, scopes
from tests.node.fakes import caller, world

ADA = caller("ada")
HERE = parse("gs://scratch/part")


def scene(tmp_path, body, count=1):
    async def story():
        async with world(tmp_path) as made:
            made.origin.bucket("scratch")
            await body(made, *[await made.node(f"n{number}") for number in range(count)])

    asyncio.run(story())


async def put(node, address=HERE, data=b"bytes", scope="run7"):
    fd = os.memfd_create("what is put")
    try:
        os.write(fd, data)
        return await objects.put(node, ADA, address, fd, "", objects.PutOptions(scope=scope))
    finally:
        os.close(fd)


async def put_and_lose_the_answer(made, node, monkeypatch, data=b"bytes"):
    stored = made.origin.put

    async def lose(*args, **options):
        await stored(*args, **options)
        raise OriginUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(made.origin, "put", lose)
        with pytest.raises(OriginUnavailable):
            await put(node, data=data)


async def ended(node, *, dry_run=False):
    reply = await scopes.end(node, ADA, "run7", True, "", dry_run)
    return reply, [item for item in reply.items if item.kind == "origin"]


def names(made):
    return sorted(made.origin._buckets["scratch"])


def test_what_was_stored_is_deleted_although_nobody_heard_that_it_was(tmp_path, monkeypatch):
    async def body(made, node):
        await put_and_lose_the_answer(made, node, monkeypatch)
        listed, _ = await ended(node, dry_run=True)
        assert (listed.origin_objects, listed.bytes, names(made)) == (1, 5, ["part"])
        reply, items = await ended(node)
        assert (reply.origin_objects, [item.reason for item in items], names(made)) == (1, [""], [])
        assert await scopes.known(node, "ada", "run7") == []

    scene(tmp_path, body)


def test_what_was_written_over_for_the_same_scope_is_deleted_whichever_write_was_noted_last(
    tmp_path, monkeypatch
):
    async def body(made, node):
        await put(node)
        await put_and_lose_the_answer(made, node, monkeypatch, b"newer bytes")
        _, items = await ended(node)
        assert ([item.bytes for item in items], names(made)) == ([11], [])

    scene(tmp_path, body)


def test_what_somebody_else_has_put_in_its_place_stays_and_nothing_more_is_said_of_it(tmp_path):
    async def body(made, node):
        await put(node)
        made.origin.store("scratch", "part", b"results")
        reply, items = await ended(node)
        assert (reply.origin_objects, items, names(made)) == (0, [], ["part"])
        assert await scopes.known(node, "ada", "run7") == []

    scene(tmp_path, body)


def test_what_was_never_stored_is_forgotten(tmp_path):
    async def body(made, node):
        made.origin.fail(OriginUnavailable("no answer"), kind="upload")
        with pytest.raises(OriginUnavailable):
            await put(node)
        reply, items = await ended(node)
        assert (reply.origin_objects, items) == (0, [])
        assert await scopes.known(node, "ada", "run7") == []

    scene(tmp_path, body)


def test_a_put_that_is_refused_does_not_make_another_of_the_same_object_forgotten(tmp_path):
    """Two jobs with the same output: the first comes too late, and hears so when the second is done, or still at it."""

    async def body(made, node):
        late, stored = asyncio.Event(), asyncio.Event()

        async def before(kind, _address):
            if kind == "upload" and not late.is_set():
                late.set()
                await stored.wait()
                raise OriginChanged("somebody was faster")

        made.origin.before = before
        first = asyncio.create_task(put(node))
        await late.wait()
        await put(node)
        stored.set()
        with pytest.raises(OriginChanged):
            await first
        reply, _ = await ended(node)
        assert (reply.origin_objects, names(made)) == (1, [])

    scene(tmp_path, body)


def test_a_put_that_is_refused_does_not_make_one_under_way_forgotten(tmp_path, monkeypatch):
    async def body(made, node):
        refuse, store, begun = asyncio.Event(), asyncio.Event(), []

        async def before(kind, _address):
            if kind == "upload":
                begun.append(kind)
                if len(begun) == 1:
                    await refuse.wait()
                    raise OriginChanged("somebody was faster")
                await store.wait()

        made.origin.before = before
        first = asyncio.create_task(put(node))
        while not begun:
            await asyncio.sleep(0)
        second = asyncio.create_task(put_and_lose_the_answer(made, node, monkeypatch))
        while len(begun) < 2:
            await asyncio.sleep(0)
        refuse.set()
        with pytest.raises(OriginChanged):
            await first
        store.set()
        await second
        reply, _ = await ended(node)
        assert (reply.origin_objects, names(made)) == (1, [])

    scene(tmp_path, body)


def test_ending_a_scope_does_not_make_a_put_under_way_forgotten(tmp_path, monkeypatch):
    async def body(made, node):
        begun, store = asyncio.Event(), asyncio.Event()

        async def before(kind, _address):
            if kind == "upload":
                begun.set()
                await store.wait()

        made.origin.before = before
        writing = asyncio.create_task(put_and_lose_the_answer(made, node, monkeypatch))
        await begun.wait()
        await ended(node)
        store.set()
        await writing
        reply, _ = await ended(node)
        assert (reply.origin_objects, names(made)) == (1, [])

    scene(tmp_path, body)


def test_what_is_written_while_its_scope_ends_is_found_when_it_is_ended_once_more(tmp_path):
    async def body(made, node):
        await put(node)
        again = []

        async def before(kind, _address):
            if kind == "delete" and not again:
                again.append(kind)
                await put(node, data=b"newer")

        made.origin.before = before
        await ended(node)
        assert again
        await ended(node)
        assert names(made) == []
        await ended(node)
        assert await scopes.known(node, "ada", "run7") == []

    scene(tmp_path, body)


def test_what_cloud_storage_refused_is_forgotten_at_once(tmp_path):
    async def body(made, node):
        made.origin.fail(Forbidden("no"), kind="upload", times=2)
        results = await asyncio.gather(put(node), put(node), return_exceptions=True)
        assert [type(one) for one in results] == [Forbidden, Forbidden]
        assert await scopes.known(node, "ada", "run7") == []

    scene(tmp_path, body)


@pytest.mark.parametrize("refusal", [Forbidden, NotFound, OriginChanged])
def test_what_was_stored_before_the_put_was_refused_is_deleted_too(tmp_path, monkeypatch, refusal):
    """The answer was lost, and asked once more the user had no right any more, or what was there was another's."""

    async def body(made, node):
        stored = made.origin.put

        async def refuse(*args, **options):
            await stored(*args, **options)
            raise refusal("no", perhaps_stored=True)

        with monkeypatch.context() as patch:
            patch.setattr(made.origin, "put", refuse)
            with pytest.raises(refusal):
                await put(node)
        reply, _ = await ended(node)
        assert (reply.origin_objects, names(made)) == (1, [])

    scene(tmp_path, body)


def test_a_node_that_answers_nonsense_is_named_and_the_others_are_heard(tmp_path):
    async def body(made, node):
        await put(node)

        async def nonsense(*_):
            return {"evil": {"items": 3}}

        object.__setattr__(node.objects.neighbours, "tell", nonsense)
        told = await scopes._end_origin(node, ADA, "run7", "", dry_run=False)
        assert [item.action for item in told if item.reason] == ["ask"]
        assert names(made) == []

    scene(tmp_path, body)


def test_what_another_node_wrote_is_asked_for_page_by_page(tmp_path, monkeypatch):
    monkeypatch.setattr(scopes, "PAGE", 2)

    async def body(made, node, other):
        for number in range(5):
            await put(other, parse(f"gs://scratch/{number}"))
        await put(node)
        reply, _ = await ended(node)
        assert (reply.origin_objects, names(made)) == (6, [])
        assert await scopes.known(other, "ada", "run7") == []

    scene(tmp_path, body, count=2)

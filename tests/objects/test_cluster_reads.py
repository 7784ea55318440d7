"""Reading objects: several nodes are one cache."""

import asyncio
import os
import time

import pytest
from cached.addresses import parse
from cached.errors import OriginUnavailable
from cached.objects import gather as gathering
from cached.objects.claims import Claims
from cached.objects.home import home
from cached.objects.neighbours import PART, Asked, Part, Renewed
from tests.objects.cache_kit import ada, bob, content
from tests.objects.test_read import scene
from tests.objects.test_write_and_clear import written

HERE = parse("gs://genomes/chr1")


def test_many_readers_on_eight_nodes_cost_one_read_of_the_origin(tmp_path):
    data = os.urandom(3_000_000)

    async def body(made, *nodes):
        made.origin.store("genomes", "chr1", data)
        answers = await asyncio.gather(*(content(node, ada(), HERE) for node in nodes for _ in range(8)))
        assert all(answer[0] == data for answer in answers)
        assert made.origin.stats.bytes_in == len(data)
        assert all(node.account.misses.bytes < len(data) for node in nodes), "the nodes shared the work"

    scene(tmp_path, body, count=8)


def test_a_node_that_comes_later_costs_the_origin_no_bytes(tmp_path):
    data = os.urandom(1_000_000)

    async def body(made, one, other, third):
        made.origin.store("genomes", "chr1", data)
        assert (await content(one, ada(), HERE))[0] == data
        assert await content(other, bob(), HERE) == (data, "peer")
        assert (await content(third, bob(), HERE))[0] == data
        assert made.origin.stats.bytes_in == len(data)

    scene(tmp_path, body, count=3)


def test_a_dead_home_costs_its_parts_a_read_of_the_origin_and_no_error(tmp_path):
    data = os.urandom(1_000_000)

    async def body(made, one, other):
        made.origin.store("genomes", "chr1", data)
        assert (await content(one, ada(), HERE))[0] == data
        present = made.present()
        made.present = lambda: present  # nobody has noticed yet
        made.dead.add(one.neighbours.me)
        assert (await content(other, ada(), HERE))[0] == data
        assert other.counts["objects.home_failed"] + other.counts["objects.peer_failed"] > 0

    scene(tmp_path, body, count=2)


def test_who_dies_with_a_claim_is_replaced(tmp_path):
    data = os.urandom(200_000)

    async def body(made, one, other):
        made.origin.store("genomes", "chr1", data)
        never = asyncio.Event()

        async def hang_the_first(kind, address):
            if kind == "media" and made.origin.counts["media"] == 0:
                await never.wait()

        made.origin.before = hang_the_first
        first = asyncio.create_task(content(one, ada(), HERE))
        while not made.calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        made.origin.before = None
        first.cancel()
        await asyncio.wait({first})
        assert (await content(other, ada(), HERE))[0] == data

    scene(tmp_path, body, count=2)


def test_wrong_bytes_of_a_peer_are_found_and_read_from_the_origin_instead(tmp_path):
    data = os.urandom(400_000)

    async def body(made, one, other):
        made.origin.store("genomes", "chr1", data)
        assert (await content(one, ada(), HERE))[0] == data
        for path in tmp_path.rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                with path.open("r+b") as file:
                    file.write(bytes(byte ^ 1 for byte in data[:100]))
        assert (await content(other, ada(), HERE))[0] == data
        assert other.counts["objects.peer_corrupt"] == 1

    scene(tmp_path, body, count=2)


def test_a_home_without_room_names_the_node_that_has_the_part(tmp_path):
    data = os.urandom(1_000_000)

    async def body(made, one, *_):
        made.origin.store("genomes", "chr1", data)
        small = made.node(memory=8192, disk=8192)
        assert (await content(one, ada(), HERE))[0] == data
        assert small.counts["objects.home_full"] > 0
        third = made.node()
        assert (await content(third, ada(), HERE))[0] == data
        assert made.origin.stats.bytes_in < 2 * len(data)

    scene(tmp_path, body, count=1)


def test_an_origin_that_fails_on_one_node_leaves_the_claim_to_another(tmp_path):
    data = os.urandom(300_000)

    async def body(made, one, other):
        made.origin.store("genomes", "chr1", data)

        async def fail(kind, address):
            if kind == "media" and made.origin.asked[-1][1] == "tok-ada":
                raise OriginUnavailable(f"{address}: no answer")

        made.origin.before = fail
        answers = await asyncio.gather(
            content(one, ada(), HERE), content(other, bob(), HERE), return_exceptions=True
        )
        assert isinstance(answers[0], OriginUnavailable) or answers[0][0] == data
        assert answers[1][0] == data

    scene(tmp_path, body, count=2)


@pytest.mark.parametrize("first", [0, 1])
def test_nodes_that_cut_objects_into_other_parts_exchange_none_and_say_so(tmp_path, first):
    data = os.urandom(3_000_000)  # so many parts that each node is the home of some

    async def body(made, one):
        other = made.node(block=2 * made.block)
        made.origin.store("genomes", "chr1", data)
        order = (one, other) if first == 0 else (other, one)
        for node in order:
            assert (await content(node, ada(), HERE))[0] == data
            assert not node.counts["objects.peer_corrupt"]
            assert not node.counts["objects.peer_failed"]
        assert made.origin.stats.bytes_in <= 2 * len(data)
        assert one.homes.differing == {other.neighbours.me: other.block}
        assert other.homes.differing == {one.neighbours.me: one.block}
        assert one.counts["objects.block_differs"] > 0

    scene(tmp_path, body)


def test_nodes_that_cut_large_objects_differently_share_small_ones_as_ever(tmp_path):
    data = os.urandom(50_000)

    async def body(made, one):
        other = made.node(block=2 * made.block)
        for number in range(8):
            made.origin.store("genomes", f"chr{number}", data)
            for node in (one, other):
                assert (await content(node, ada(), parse(f"gs://genomes/chr{number}")))[0] == data
        assert made.origin.stats.bytes_in == 8 * len(data)
        assert not one.homes.differing
        assert not other.homes.differing

    scene(tmp_path, body)


def test_a_node_whose_block_is_put_right_is_no_longer_named(tmp_path):
    async def body(made, one):
        other = made.node(block=2 * made.block)
        made.origin.store("genomes", "chr1", os.urandom(1_000_000))
        made.origin.store("genomes", "chr2", os.urandom(1_000_000))
        await content(other, ada(), HERE)
        assert one.homes.differing
        other.block = one.block
        await content(other, ada(), parse("gs://genomes/chr2"))
        assert not one.homes.differing

    scene(tmp_path, body)


def test_a_member_that_claims_everything_and_brings_nothing_is_read_past(tmp_path, monkeypatch):
    data = os.urandom(500_000)
    monkeypatch.setattr(gathering, "LONGEST_WAIT", 0.5)

    async def body(made, one, other):
        pinned = made.origin.store("genomes", "chr1", data)
        claims = {}
        for node in (one, other):
            node.homes._claims = Claims(patience=0.4, longest=1.2)
        for index in range(len(data) // one.block + 1):
            part = Part(key=one.key("ada", pinned), size=pinned.size, block=one.block, index=index)
            node = made.nodes[home(part.key.digest, index, made.present())]
            answer = await node.homes.ask("evil", Asked(part=part, user="ada"))
            assert answer.what == "fetch"
            claims[answer.claim] = node

        async def renew():
            while True:
                for claim, node in claims.items():
                    await node.homes.renew("evil", Renewed(claims=[claim]))
                await asyncio.sleep(0.1)

        renewing = asyncio.create_task(renew())
        try:
            assert (await asyncio.wait_for(content(one, ada(), HERE), 120))[0] == data
            assert (await asyncio.wait_for(content(other, bob(), HERE), 120))[0] == data
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
        assert made.origin.stats.bytes_in == len(data)

    scene(tmp_path, body, count=2)


def test_parts_that_another_node_sends_too_slowly_come_from_the_origin(tmp_path, monkeypatch):
    data = os.urandom(400_000)
    monkeypatch.setattr(gathering, "longest", lambda _part: 0.3)

    async def body(made, one, other):
        made.origin.store("genomes", "chr1", data)
        assert (await content(one, ada(), HERE))[0] == data

        async def drip(node, stream, query, silence):
            assert stream == PART
            assert silence == 10.0
            for byte in data:
                await asyncio.sleep(0.02)
                yield bytes([byte])

        object.__setattr__(other.neighbours, "fetch", drip)
        assert (await asyncio.wait_for(content(other, ada(), HERE), 120))[0] == data
        assert other.counts["objects.peer_failed"] > 0

    scene(tmp_path, body, count=2)


def test_a_part_may_take_longer_the_larger_it_is_and_never_for_ever():
    small, large = (
        Part(key=None, size=size, block=64 << 20, index=0)
        for size in (0, 64 << 20)  # type: ignore[arg-type]
    )
    assert gathering.longest(small) == 15
    assert gathering.longest(large) == 15 + 512


def test_a_write_waits_for_a_node_that_was_lost_sight_of_as_long_as_its_memory_may_last(tmp_path):
    async def body(made, one, other):
        made.origin.store("genomes", "chr1", b"old")
        await content(one, ada(), HERE)
        await written(one, ada(), HERE, b"new")
        assert one.counts["objects.waited_for_silent"] == 0
        made.missing = True
        began = time.monotonic()
        await written(one, ada(), HERE, b"newer")
        assert one.counts["objects.waited_for_silent"] == 1
        assert time.monotonic() - began >= 0.5

    scene(tmp_path, body, count=2, window=0.5)


def test_a_write_waits_for_a_node_that_does_not_answer_but_not_without_a_window(tmp_path):
    async def body(made, one, other):
        made.origin.bucket("genomes")
        made.dead.add(other.neighbours.me)
        made.present = lambda: list(made.nodes)  # nobody has noticed yet
        await written(one, ada(), HERE, b"new")
        assert one.counts["objects.waited_for_silent"] == (1 if one.freshness.window else 0)

    scene(tmp_path / "window", body, count=2, window=0.2)
    scene(tmp_path / "none", body, count=2)

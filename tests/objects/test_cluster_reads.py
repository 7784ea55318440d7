"""Reading objects: several nodes are one cache."""

import asyncio
import os

from cached.addresses import parse
from cached.errors import OriginUnavailable
from tests.objects.cache_kit import ada, bob, content
from tests.objects.test_read import scene

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

"""What the object cache does shows in status and metrics: hits by tier, room, what went and why, and what to do."""

from __future__ import annotations

import asyncio
import os

import pytest
from cached.addresses import Address
from cached.node import objects, status
from cached.node.metrics import NodeMetrics
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.node.fakes import caller, world

ADA = caller("ada")
MB = 1 << 20


class Redis:
    """A tier that nodes share, without anything in it."""

    max_value = 1 << 20
    state = "on"
    troubles = ()

    async def get(self, key):
        return None

    async def set(self, key, value, ttl_seconds):
        return False


async def read(node, name):
    opened = await objects.open_object(node, ADA, Address("bucket", name), token="")
    if opened.fd >= 0:
        os.close(opened.fd)
    objects.release(node, opened.pin)


def figures(node):
    """Return the values by name and labels, these in the order of their names."""
    text = generate_latest(NodeMetrics(node).registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def story(test, tmp_path):
    async def run():
        async with world(tmp_path) as w:
            await test(w)

    asyncio.run(run())


def test_a_node_that_read_nothing_has_no_rates_and_says_so(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=8 * MB)
        found = (await status.status(a, ADA))["objects"]
        assert found["advice"] == "no objects were read lately"
        assert (found["byte_hit_rate"], found["hit_rate"], found["working_set_fits"]) == (None, None, None)
        assert found["redis"] == {"state": "none", "troubles": []}
        shown = figures(a)
        assert ("cached_object_byte_hit_rate",) not in shown
        assert ("cached_redis_up",) not in shown
        assert shown["cached_object_misses_total",] == 0

    story(tell, tmp_path)


def test_hits_misses_room_and_what_the_origin_was_asked_are_shown(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=8 * MB)
        w.origin.store("bucket", "name", b"x" * 10_000)
        for _ in range(4):
            await read(a, "name")
        found = (await status.status(a, ADA))["objects"]
        assert found["hits"]["disk"] == {"reads": 3, "bytes": 30_000}
        assert found["misses"] == {"reads": 1, "bytes": 10_000}
        assert (found["hit_rate"], found["byte_hit_rate"], found["working_set_fits"]) == (0.75, 0.75, 1.0)
        assert (found["copies"], found["open"], found["working_set_bytes"]) == (1, 0, 10_000)
        disk = found["tiers"]["disk"]
        assert disk["capacity_bytes"] == 8 * MB
        assert disk["used_bytes"] + disk["reserved_bytes"] + disk["free_bytes"] == 8 * MB
        assert disk["used_bytes"] >= 10_000
        assert found["origin"]["requests"]["stat"] == 4
        shown = figures(a)
        assert shown["cached_object_hits_total", "disk"] == 3
        assert shown["cached_object_hit_bytes_total", "disk"] == 30_000
        assert shown["cached_object_misses_total",] == 1
        assert shown["cached_object_miss_bytes_total",] == 10_000
        assert shown["cached_object_bytes", "used", "disk"] == disk["used_bytes"]
        assert shown["cached_object_bytes", "limit", "disk"] == 8 * MB
        assert shown["cached_object_byte_hit_rate",] == 0.75
        assert shown["cached_object_working_set_fits",] == 1
        assert shown["cached_object_admitted_total", "disk"] == 1
        assert shown["cached_origin_requests_total", "stat"] == 4

    story(tell, tmp_path)


def test_what_does_not_fit_is_counted_and_the_advice_is_to_grow(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=4 * MB)
        for number in range(8):
            w.origin.store("bucket", f"name-{number}", b"x" * MB)
            await read(a, f"name-{number}")
        w.origin.store("bucket", "large", b"x" * (5 * MB))
        await read(a, "large")
        w.origin.store("bucket", "name-7", b"new")
        await read(a, "name-7")
        while a.objects.background:
            await asyncio.wait(set(a.objects.background))
        found = (await status.status(a, ADA))["objects"]
        assert found["gone"]["room"] >= 4
        assert found["gone"]["replaced"] == 1
        assert (found["refused"], found["read_through"]) == (1, 1)
        assert found["working_set_fits"] == pytest.approx(0.5, abs=0.01)
        assert "raise [objects] disk or memory" in found["advice"]
        shown = figures(a)
        assert shown["cached_object_gone_total", "room"] == found["gone"]["room"]
        assert shown["cached_object_gone_bytes_total", "replaced"] >= MB
        assert shown["cached_object_refused_total",] == 1
        assert shown["cached_object_read_through_total",] == 1

    story(tell, tmp_path)


def test_cloud_storage_that_cannot_be_reached_shows_in_health(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=8 * MB)
        for _ in range(3):
            a.objects.origin.stats.silent("HTTP 503")
        health = (await status.status(a, ADA))["health"]
        assert [words for words in health if "Cloud Storage cannot be reached" in words]
        a.objects.origin.stats.answered()
        assert not [words for words in (await status.status(a, ADA))["health"] if "Cloud Storage" in words]

    story(tell, tmp_path)


def test_redis_that_is_lost_shows_in_status_health_and_metrics(tmp_path):
    async def tell(w):
        a = await w.node("a", object_disk=8 * MB)
        redis = a.objects.shared = Redis()
        assert (await status.status(a, ADA))["objects"]["redis"]["state"] == "on"
        assert figures(a)["cached_redis_up",] == 1
        redis.state, redis.troubles = "lost since 2026-01-01T00:00:00Z", ["redis is lost"]
        found = await status.status(a, ADA)
        assert found["objects"]["redis"] == {"state": redis.state, "troubles": redis.troubles}
        assert "redis is lost" in found["health"]
        assert figures(a)["cached_redis_up",] == 0

    story(tell, tmp_path)

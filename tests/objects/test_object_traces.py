"""The policy against plain LRU on small versions of the traces that are measured in full by the bench."""

from __future__ import annotations

import pytest
from bench.object_traces import MB, TRACES, Cached, Lru, ratio, reads, run

SCALE = 1 / 8


@pytest.fixture(scope="module")
def runs() -> dict[str, list[dict[str, float]]]:
    return {trace: [run(trace, seed, SCALE) for seed in range(3)] for trace in TRACES}


@pytest.mark.parametrize("trace", TRACES)
def test_each_trace_saves_nearly_as_many_bytes_as_lru_or_more_and_the_caps_hold(runs, trace):
    for one in runs[trace]:
        assert one["bytes"] >= 10_000 * MB * SCALE
        assert ratio(one) >= 0.97
        assert one["peak_memory"] <= 1
        assert one["peak_disk"] <= 1


def test_in_sum_more_bytes_are_saved_than_by_lru(runs):
    ours = sum(one["hit_rate"] for found in runs.values() for one in found)
    lru = sum(one["lru_hit_rate"] for found in runs.values() for one in found)
    assert ours > 1.03 * lru


def test_most_bytes_of_popular_objects_come_from_memory(runs):
    assert all(one["memory_hit_rate"] > one["hit_rate"] / 2 for one in runs["zipf"])


def test_memory_follows_what_is_read_now_though_nothing_new_comes_in():
    cache = Cached(memory=10 * MB, disk=100 * MB)
    for first in (0, 50):
        for _ in range(8):
            for number in range(first, first + 8):
                cache.read(str(number), MB)
    before = cache.memory_bytes
    for number in range(50, 58):
        assert cache.read(str(number), MB)
    assert cache.memory_bytes - before >= 7 * MB


def test_the_same_seed_is_the_same_trace():
    assert list(reads("batch", 1, 0.01)) == list(reads("batch", 1, 0.01))
    assert list(reads("batch", 1, 0.01)) != list(reads("batch", 2, 0.01))


def test_the_lru_that_is_compared_with_is_one():
    lru = Lru(3 * 4096)
    found = [(name, lru.read(name, 4096)) for name in "abcabdabdc"]
    assert "".join(name for name, hit in found if hit) == "ababd"

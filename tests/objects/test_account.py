"""What the cache was good for, and when it should grow."""

from __future__ import annotations

import random

from cached.objects.account import Account, Figures, WorkingSet, advice

GB = 10**9


def test_reads_are_counted_by_the_dearest_place_and_bytes_by_each():
    account = Account()
    account.served("a", 100, {"memory": 100}, 0.0)
    account.served("b", 100, {"peer": 60, "origin": 40}, 0.0)
    account.served("c", 100, {"disk": 100}, 0.0)
    assert (account.hits.reads, account.hits.bytes) == (2, 260)
    assert (account.misses.reads, account.misses.bytes) == (1, 40)
    figures = account.figures(100, 50, 0.0)
    assert figures.byte_hit_rate == 260 / 300
    assert figures.working_set == 300
    assert (figures.fits, figures.fits_memory) == (0.5, 1 / 3)


def test_without_reads_there_are_no_figures():
    figures = Account().figures(100, 100, 0.0)
    assert figures == Figures(byte_hit_rate=None, fits=None, fits_memory=None, working_set=0)
    assert advice(figures, 100, 100) == "no objects were read lately"


def test_the_working_set_counts_each_copy_once_and_forgets_what_was_not_used_lately():
    seen = WorkingSet(window=10)
    for _ in range(3):
        seen.note("a", 5, 0.0)
    seen.note("b", 7, 4.0)
    assert seen.bytes(9.9) == 12
    assert seen.bytes(10.0) == 7
    assert seen.bytes(14.0) == 0


def test_the_estimate_holds_with_far_more_names_than_are_sampled():
    seen, rng, total = WorkingSet(limit=1024), random.Random(1), 0
    for number in range(30_000):
        size = rng.randrange(1000, 3000)
        total += size
        seen.note(f"object {number}", size, 0.0)
    assert len(seen) <= 1024
    assert 0.85 * total < seen.bytes(1.0) < 1.15 * total


def figures(fits: float, memory: float) -> Figures:
    return Figures(byte_hit_rate=0.5, fits=fits, fits_memory=memory, working_set=10 * GB)


def test_the_words_say_what_should_grow_and_only_then():
    assert "much is read from Cloud Storage again" in advice(figures(0.3, 0.1), GB, 2 * GB)
    assert "some is read from Cloud Storage again" in advice(figures(0.8, 0.1), GB, 7 * GB)
    assert "memory should grow" in advice(figures(1.0, 0.3), 3 * GB, 20 * GB)
    assert advice(figures(1.0, 0.9), 9 * GB, 20 * GB).endswith("fit")

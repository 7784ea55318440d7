"""What other nodes say has changed: it costs a question, and nobody's copy unless Cloud Storage agrees."""

import asyncio

from cached.addresses import parse
from cached.errors import OriginUnavailable
from cached.objects.credit import BURST, Credit
from cached.objects.neighbours import CHANGED, Changed
from cached.objects.news import heard
from cached.objects.read import open_now
from tests.objects.cache_kit import ada, content
from tests.objects.test_read import scene
from tests.objects.test_write_and_clear import written

HERE = parse("gs://genomes/chr1")
GONE = Changed(bucket="genomes", name="chr1", generation=0)
LATER = Changed(bucket="genomes", name="chr1", generation=2**62)


async def settled(cache):
    while cache.background:
        await asyncio.wait(set(cache.background))


def copies(cache):
    return [entry.key.generation for entry in cache.tiers.index]


def test_false_news_cost_one_question_and_no_copy(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"the object" * 100)
        await content(cache, ada(), HERE)
        media, asked = made.origin.counts["media"], made.origin.counts["stat"]
        for number, lie in enumerate((GONE, LATER), 1):
            await heard(cache, "evil", lie)
            assert open_now(cache, ada(), HERE) is None
            await settled(cache)
            assert made.origin.counts["stat"] == asked + number
            assert cache.credit.false == {"evil": number}
        assert (await content(cache, ada(), HERE))[0] == b"the object" * 100
        assert made.origin.counts["media"] == media
        assert cache.counts["objects.news_false"] == 2

    scene(tmp_path, body, window=60.0)


def test_true_news_let_the_old_copy_go_and_count_against_nobody(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"old")
        await content(cache, ada(), HERE)
        new = made.origin.store("genomes", "chr1", b"new")
        await heard(cache, "good", Changed(bucket="genomes", name="chr1", generation=new.generation))
        await settled(cache)
        assert copies(cache) == []
        assert (await content(cache, ada(), HERE))[0] == b"new"
        made.origin.remove("genomes", "chr1")
        await heard(cache, "good", GONE)
        await settled(cache)
        assert copies(cache) == []
        assert not cache.credit.false

    scene(tmp_path, body)


def test_news_that_cannot_be_confirmed_make_the_copy_the_first_to_go_and_no_more(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"x" * 1000)
        made.origin.store("genomes", "chr2", b"y" * 1000)
        for name in ("chr1", "chr2"):
            await content(cache, ada(), parse(f"gs://genomes/{name}"))
        made.origin.fail(OriginUnavailable("asleep"), kind="stat")
        await heard(cache, "good", LATER)
        await settled(cache)
        assert cache.counts["objects.news_unconfirmed"] == 1
        assert len(copies(cache)) == 2
        (first,) = cache.tiers.index.least("disk", 1)
        assert first.key.name == "chr1"
        assert not cache.credit.false

    scene(tmp_path, body, memory=0)


def test_a_member_that_talks_without_end_causes_few_questions(tmp_path):
    async def body(made, cache):
        made.origin.store("genomes", "chr1", b"the object")
        await content(cache, ada(), HERE)
        asked = made.origin.counts["stat"]
        for _ in range(3 * BURST):
            await heard(cache, "evil", LATER)
        await heard(cache, "good", LATER)
        await settled(cache)
        assert cache.counts["objects.news_unchecked"] >= BURST
        assert made.origin.counts["stat"] <= asked + 2 * BURST
        assert cache.credit.false["good"] == 1
        assert len(copies(cache)) == 1

    scene(tmp_path, body)


def test_news_of_what_is_not_here_cost_nothing(tmp_path):
    async def body(made, cache):
        await heard(cache, "evil", LATER)
        assert not cache.background
        assert made.origin.counts["stat"] == 0

    scene(tmp_path, body)


def test_every_node_is_told_of_a_write_and_none_of_them_pays_for_it_with_a_copy_that_is_good(tmp_path):
    async def body(made, one, other):
        made.origin.store("genomes", "chr1", b"old")
        for node in (one, other):
            await content(node, ada(), HERE)
        await written(one, ada(), HERE, b"new")
        await settled(other)
        assert made.calls[other.neighbours.me, CHANGED] == 1
        assert len(set(copies(other))) <= 1
        media = made.origin.counts["media"]
        assert (await content(other, ada(), HERE))[0] == b"new"
        assert (await content(one, ada(), HERE))[0] == b"new"
        assert made.origin.counts["media"] <= media + 1

    scene(tmp_path, body, count=2, window=60.0)


def test_credit_comes_back_with_time_and_each_node_has_its_own():
    credit = Credit(burst=2, rate=0.5)
    assert [credit.spend("a", 0.0) for _ in range(3)] == [True, True, False]
    assert credit.spend("b", 0.0)
    assert not credit.spend("a", 1.0)
    assert credit.spend("a", 2.0)
    assert [credit.spend("a", 100.0) for _ in range(3)] == [True, True, False]

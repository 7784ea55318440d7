"""Reading through Cloud Storage's client when the service, the network or the credentials misbehave."""

from __future__ import annotations

import asyncio
import gzip
import os
import tracemalloc
from types import SimpleNamespace

import pytest
from cached.addresses import Address
from cached.errors import (
    Busy,
    Forbidden,
    IntegrityFailed,
    NotFound,
    OriginChanged,
    OriginUnavailable,
)
from cached.origin.calls import Part
from cached.origin.failures import Failed
from cached.origin.gcs import Gcs
from cached.origin.values import Pinned
from tests.origin.worlds import fetched, held, holding, play

THERE = Address("b", "o")
MIB = 1 << 20
DATA = os.urandom(3 * MIB)


def patient(**how) -> Gcs:
    return Gcs(**{"threads": 4, "patience": 60, "first_wait": 0.01, **how})


def copying(gcs, origin=None, data=DATA, **how):
    """Store an object, fetch it through the origin in parts of one MiB, and return what came."""
    gcs.put("b", "o", data)
    origin = origin or patient()
    how = {"part": MIB, "parallel": 1, **how}

    async def scene():
        return await fetched(origin, await origin.stat(THERE, token=None), **how)

    return play(origin, scene), origin


def media(number=None):
    """Match requests for data: all, or that of one part."""
    return lambda request: (
        request.kind == "media" and (number is None or request.range.startswith(f"bytes={number * MIB}-"))
    )


def test_a_body_that_is_cut_is_gone_on_with(gcs):
    gcs.faults.add("cut", media(1), at=MIB // 2 + 77)
    assert copying(gcs)[0] == DATA
    starts = [int(r.range[6:].split("-")[0]) for r in gcs.requests if r.kind == "media"]
    assert [start // MIB for start in starts] == [0, 1, 1, 2]
    assert starts[2] > MIB, "what had come before the cut was asked for again"
    assert all(r.generation for r in gcs.requests if r.kind == "media")


def test_a_body_that_is_cut_again_and_again_gets_there_by_its_progress(gcs):
    gcs.faults.add("cut", media(), times=5, at=MIB // 2)
    data, origin = copying(gcs, part=3 * MIB)
    assert data == DATA
    assert sum(origin.stats.retries.values()) == 5


@pytest.mark.parametrize("hidden", [False, True], ids=["with hash", "without hash"])
def test_a_flipped_byte_is_noticed_and_everything_read_again(gcs, hidden):
    gcs.faults.add("flip", media(1), at=5)
    if hidden:
        gcs.faults.add("no_hash", media(), times=None)
    data, origin = copying(gcs)
    assert data == DATA
    assert origin.stats.retries["crc32c"] == 1
    assert origin.stats.bytes_in == 2 * len(DATA)


def test_bytes_that_are_wrong_twice_are_refused(gcs):
    gcs.faults.add("flip", media(2), times=None)
    with pytest.raises(IntegrityFailed, match=r"gs://b/o.*crc32c"):
        copying(gcs)


def test_a_flipped_byte_in_an_object_read_whole_is_noticed(gcs):
    gcs.put("b", "o", b"all of it")
    gcs.faults.add("flip", media(), at=3)
    origin = patient()

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        assert await origin.read(pinned, 0, 9, token=None) == b"all of it"
        gcs.faults.add("flip", media(), times=None)
        with pytest.raises(IntegrityFailed, match="gs://b/o"):
            await origin.read(pinned, 0, 9, token=None)

    play(origin, scene)


@pytest.mark.parametrize("kind", ["503", "429", "500", "408", "reset"])
def test_a_storm_that_ends_is_waited_out(gcs, kind):
    gcs.faults.add(kind, times=6)
    data, origin = copying(gcs)
    assert data == DATA
    cause = kind if kind == "reset" else f"http_{kind}"
    assert origin.stats.retries[cause] == 6
    assert origin.stats.snapshot()[f"origin.retries.{cause}"] == 6


@pytest.mark.parametrize(
    ("kind", "said"), [("503", "HTTP 503"), ("429", "HTTP 429"), ("reset", "connection was lost")]
)
def test_a_storm_that_does_not_end_is_an_error_with_object_and_cause(gcs, kind, said):
    gcs.faults.add(kind, times=None)
    with pytest.raises(OriginUnavailable, match=f"gs://b/o.*{said}") as refused:
        copying(gcs, patient(patience=0.3))
    assert refused.value.hint
    assert gcs.counts["stat"] > 1


def test_a_storm_in_the_middle_of_a_fetch_is_an_error_too(gcs):
    gcs.faults.add("503", media(2), times=None)
    with pytest.raises(OriginUnavailable, match=r"gs://b/o.*503"):
        copying(gcs, patient(patience=0.3), parallel=3)


def test_a_service_that_is_not_there_is_unavailable(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(OriginUnavailable, match=r"gs://b/o.*no connection"):
        copying(gcs, patient(patience=0.3))


def test_a_body_that_stalls_is_asked_for_again(gcs):
    gcs.faults.add("stall", media(1), at=MIB // 2)
    data, origin = copying(gcs, patient(timeout=1.0))
    assert data == DATA
    assert origin.stats.retries["stall"] >= 1


def test_an_answer_that_does_not_begin_is_asked_for_again(gcs):
    gcs.faults.add("stall", {"kind": "stat"})
    data, origin = copying(gcs, patient(timeout=1.0))
    assert data == DATA
    assert origin.stats.retries["stall"] >= 1


def test_a_service_that_stalls_for_ever_is_unavailable(gcs):
    gcs.faults.add("stall", {"kind": "stat"}, times=None)
    with pytest.raises(OriginUnavailable, match=r"gs://b/o.*in time"):
        copying(gcs, patient(timeout=0.2, patience=0.5))
    gcs.faults.clear()


def test_an_object_replaced_between_two_ranges_is_never_a_mixture(gcs):
    gcs.faults.add("replace_between", media(1), data=bytes(len(DATA)))
    with pytest.raises(OriginChanged, match=r"gs://b/o.*replaced or deleted"):
        copying(gcs)


def test_a_right_that_ends_in_mid_read_is_an_error(gcs):
    gcs.tokens["tok-ada"] = "ada"
    gcs.allow("b", "ada")
    gcs.put("b", "o", DATA)
    gcs.faults.add("revoke", media(1))
    origin = patient()

    async def scene():
        pinned = await origin.stat(THERE, token="tok-ada")
        with pytest.raises(Forbidden, match=r"gs://b/o.*denies") as refused:
            await fetched(origin, pinned, token="tok-ada", part=MIB, parallel=1)
        assert "owner of the bucket" in refused.value.hint

    play(origin, scene)
    assert gcs.counts["media"] == 2


def test_credentials_that_expire_in_mid_read_are_an_error_with_a_hint(gcs):
    gcs.tokens["tok-ada"] = "ada"
    gcs.put("b", "o", DATA)
    gcs.faults.add("401", media(1), times=None)
    origin = patient()

    async def scene():
        pinned = await origin.stat(THERE, token="tok-ada")
        with pytest.raises(Forbidden, match=r"gs://b/o.*credentials") as refused:
            await fetched(origin, pinned, token="tok-ada", part=MIB, parallel=1)
        assert "renew" in refused.value.hint

    play(origin, scene)


def test_a_bucket_that_is_missing_is_named(gcs):
    origin = patient()

    async def scene():
        with pytest.raises(NotFound, match="no such bucket: gs://nowhere"):
            await origin.stat(Address("nowhere", "o"), token=None)

    play(origin, scene)


def test_a_gzip_object_is_served_as_it_is_stored(gcs):
    stored = gzip.compress(os.urandom(200_000))
    gcs.put("b", "o", stored, content_encoding="gzip")
    origin = patient()

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        assert (pinned.size, pinned.content_encoding) == (len(stored), "gzip")
        assert await origin.read(pinned, 10, 5000, token=None) == stored[10:5000]
        assert await fetched(origin, pinned, part=50_000) == stored

    play(origin, scene)


def test_an_empty_object_is_fetched_without_asking_for_a_range(gcs):
    assert copying(gcs, data=b"")[0] == b""
    assert gcs.counts["media"] == 0


PINNED = Pinned("b", "o", generation=7, size=100, crc32c=0)


@pytest.mark.parametrize(
    ("status", "headers", "cause"),
    [
        (200, {}, "range"),
        (206, {}, "range"),
        (206, {"Content-Range": "bytes 0-49/100"}, "range"),
        (206, {"Content-Range": "bytes 50-99/101"}, "range"),
        (206, {"Content-Range": "bytes 50-99/100", "x-goog-generation": "8"}, "replaced"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_not_taken(status, headers, cause):
    with pytest.raises(Failed) as failed:
        Part(PINNED, 50, 100)._check(SimpleNamespace(status_code=status, headers=headers), 50)
    assert failed.value.cause == cause


@pytest.mark.parametrize(
    ("status", "headers", "start"),
    [(206, {"Content-Range": "bytes 50-99/100", "x-goog-generation": "7"}, 50), (200, {}, 0)],
)
def test_an_answer_that_is_what_was_asked_for_is_taken(status, headers, start):
    Part(PINNED, start, 100)._check(SimpleNamespace(status_code=status, headers=headers), start)


def test_more_bytes_than_were_asked_for_are_not_taken():
    part = Part(PINNED, 0, 4)
    turn, _ = part._begin()
    part._add(b"abc", turn, until=1e12)
    with pytest.raises(Failed, match="more bytes"):
        part._add(b"de", turn, until=1e12)
    assert part.take() == [b"abc"]


def test_threads_are_bounded_whatever_is_asked_at_once(gcs):
    gcs.put("b", "o", DATA)
    origin = patient(threads=3)

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        gcs.reset_counters()
        stats = [origin.stat(THERE, token=None) for _ in range(40)]
        fetches = [fetched(origin, pinned, part=MIB // 8, parallel=8) for _ in range(4)]
        await asyncio.gather(*stats, *fetches)

    play(origin, scene)
    assert 1 <= gcs.peak <= 3


def test_questions_are_answered_while_all_that_may_read_are_reading(gcs):
    gcs.put("b", "o", DATA)
    gcs.tokens["other"] = "somebody else"
    stalled = gcs.faults.add("stall", media(), times=None, at=10)
    origin = patient(threads=4)

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        reading = asyncio.create_task(fetched(origin, pinned, part=MIB // 4, parallel=12))
        other = asyncio.create_task(origin.read(pinned, 0, MIB, token="other"))
        while stalled.done < 3:  # two of them are the first one's: nobody has all
            await asyncio.sleep(0.01)
        assert await origin.stat(THERE, token=None) == pinned
        gcs.faults.clear()
        assert await reading == DATA
        assert await other == DATA[:MIB]

    play(origin, scene)


def test_memory_is_bounded_by_threads_and_parts_not_by_the_object(gcs):
    size = 64 * MIB
    gcs.put("b", "o", bytes(size))
    origin = patient(threads=4)
    fd = holding()

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        tracemalloc.start()
        try:
            await origin.fetch(pinned, fd, token=None, part=MIB, parallel=32)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert play(origin, scene) < 16 * MIB
    assert os.fstat(fd).st_size == size


def test_nothing_is_written_after_a_cancellation(gcs):
    gcs.put("b", "o", DATA)
    stalled = gcs.faults.add("stall", media(), times=None, at=MIB // 2)
    origin = patient()
    fd = holding()

    async def scene():
        pinned = await origin.stat(THERE, token=None)
        copying = asyncio.create_task(origin.fetch(pinned, fd, token=None, part=MIB))
        while stalled.done < 2:  # the parts of one user that are read at a time
            await asyncio.sleep(0.01)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        gcs.faults.clear()
        await origin.stat(THERE, token=None)

    play(origin, scene)
    assert held(fd) == b""


def test_an_origin_that_was_closed_says_so(gcs):
    origin = patient()

    async def scene():
        await origin.close()
        with pytest.raises(Busy):
            await origin.stat(THERE, token=None)

    play(origin, scene)

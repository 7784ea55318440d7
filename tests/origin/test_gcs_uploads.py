"""Writing through Cloud Storage's client when answers are lost, connections break and the node starts anew."""

from __future__ import annotations

import os

import pytest
from cached.addresses import Address
from cached.errors import Forbidden, IntegrityFailed, NotFound, OriginChanged, OriginUnavailable, UsageError
from cached.origin.crc import crc32c
from cached.origin.gcs import Gcs
from cached.origin.upload import CHUNK
from tests.origin.worlds import holding, play, put

THERE = Address("b", "o")
MIB = 1 << 20
#: Three requests of a session.
LARGE = os.urandom(2 * CHUNK + 3 * MIB)


def patient(**how) -> Gcs:
    return Gcs(**{"threads": 4, "patience": 60, "first_wait": 0.01, **how})


def storing(gcs, data, origin=None, **how):
    """Store an object in bucket `b`; return what is said of it, and the origin."""
    origin = origin or patient()

    async def scene():
        return await put(origin, THERE, data, **how)

    return play(origin, scene), origin


def chunk_at(start):
    return lambda request: request.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def test_a_small_object_goes_in_one_request(gcs):
    stored, origin = storing(gcs, b"small")
    assert (gcs.counts["upload"], gcs.counts["resumable"], gcs.counts["stat"]) == (1, 0, 0)
    assert gcs.generation("b", "o") == stored.generation
    assert origin.stats.requests["upload"] == 1


@pytest.mark.parametrize("condition", [0, None], ids=["create only", "in any case"])
@pytest.mark.parametrize("fault", ["lost_reply", "reset", "503"])
def test_a_small_object_is_stored_once_whatever_happens_to_the_answer(gcs, condition, fault):
    gcs.faults.add(fault, {"kind": "upload"})
    stored, _ = storing(gcs, b"small", if_generation=condition)
    assert gcs.get("b", "o") == b"small"
    assert gcs.generation("b", "o") == stored.generation
    assert gcs.counts["upload"] == (1 if fault == "lost_reply" else 2)


def test_a_precondition_that_failed_by_our_own_hand_is_no_failure(gcs):
    gcs.faults.add("lost_reply", {"kind": "upload"})
    gcs.faults.add("503", {"kind": "stat"}, times=3)
    stored, origin = storing(gcs, b"small", if_generation=0)
    assert gcs.generation("b", "o") == stored.generation
    assert origin.stats.retries["lost_reply"] == 1


def test_a_precondition_that_failed_by_another_hand_is_a_change(gcs):
    gcs.put("b", "o", b"small")
    gcs.faults.add("503", {"kind": "upload"})
    with pytest.raises(OriginChanged, match="gs://b/o"):
        storing(gcs, b"small", if_generation=0)
    assert gcs.get("b", "o") == b"small"


def test_a_large_object_goes_in_a_session(gcs):
    said: list[str] = []
    stored, origin = storing(gcs, LARGE, content_type="x/y", metadata={"k": "v"}, on_session=said.append)
    assert gcs.get("b", "o") == LARGE
    assert (stored.content_type, stored.metadata["k"]) == ("x/y", "v")
    assert (gcs.counts["resumable"], len(said)) == (4, 1)
    assert gcs.bytes_in == len(LARGE) == origin.stats.bytes_out


@pytest.mark.parametrize("fault", ["cut", "reset", "503", "lost_reply"])
@pytest.mark.parametrize("start", [0, CHUNK, 2 * CHUNK], ids=["first", "middle", "last"])
def test_a_session_that_is_interrupted_goes_on_where_it_was(gcs, fault, start):
    gcs.faults.add(fault, chunk_at(start))
    stored, _ = storing(gcs, LARGE, if_generation=0)
    assert gcs.get("b", "o") == LARGE
    assert gcs.generation("b", "o") == stored.generation
    assert gcs.bytes_in < len(LARGE) + MIB, "what was stored was sent again"


def test_a_session_is_gone_on_with_by_another_process(gcs):
    said: list[str] = []
    broken = gcs.faults.add("503", chunk_at(CHUNK), times=None)
    with pytest.raises(OriginUnavailable, match=r"gs://b/o.*503") as refused:
        storing(gcs, LARGE, patient(patience=0.3), on_session=said.append)
    assert said[0].split("#")[0] not in str(refused.value.to_wire())
    assert broken.done > 1
    gcs.faults.clear()
    gcs.reset_counters()
    stored, _ = storing(gcs, LARGE, resume=said[0])
    assert gcs.get("b", "o") == LARGE
    assert gcs.generation("b", "o") == stored.generation
    assert gcs.bytes_in == len(LARGE) - CHUNK


def test_a_session_that_had_ended_well_says_what_was_stored(gcs):
    said: list[str] = []
    first, _ = storing(gcs, LARGE, on_session=said.append)
    gcs.reset_counters()
    assert storing(gcs, LARGE, resume=said[0])[0].generation == first.generation
    assert gcs.bytes_in == 0


def test_a_session_that_is_gone_is_begun_anew(gcs):
    said: list[str] = []
    gone = f"{gcs.url}/upload/storage/v1/b/b/o?uploadType=resumable&upload_id=gone#0123"
    storing(gcs, LARGE, resume=gone, on_session=said.append)
    assert gcs.get("b", "o") == LARGE
    assert len(said) == 1


def test_credentials_go_to_no_other_service(gcs):
    for elsewhere in ("http://127.0.0.1:9/upload#1", "https://example.org/upload?upload_id=1#1", "nonsense"):
        with pytest.raises(UsageError, match="the upload to resume"):
            storing(gcs, LARGE, resume=elsewhere)
    assert gcs.counts["resumable"] == 0


def test_a_large_upload_keeps_its_condition(gcs):
    gcs.put("b", "o", b"theirs")
    with pytest.raises(OriginChanged, match="gs://b/o"):
        storing(gcs, LARGE, if_generation=0)
    assert gcs.get("b", "o") == b"theirs"


def test_a_large_upload_of_other_bytes_than_announced_is_refused(gcs):
    with pytest.raises(IntegrityFailed, match="gs://b/o"):
        storing(gcs, LARGE, crc32c=crc32c(LARGE) ^ 1)
    assert gcs.generation("b", "o") == 0


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_an_answer_without_generation_is_asked_for(gcs, data):
    gcs.faults.add("no_generation", lambda request: request.kind in ("upload", "resumable"), times=None)
    stored, _ = storing(gcs, data)
    assert stored.generation == gcs.generation("b", "o") > 0
    assert gcs.counts["stat"] == 1


def test_a_bucket_that_is_missing_is_named(gcs):
    origin = patient()

    async def scene():
        for data in (b"small", LARGE):
            with pytest.raises(NotFound, match="no such bucket: gs://nowhere"):
                await put(origin, Address("nowhere", "o"), data)

    play(origin, scene)


def test_a_file_that_has_become_shorter_is_not_stored(gcs):
    origin = patient()

    async def scene():
        with pytest.raises(IntegrityFailed, match="ends at"):
            await origin.put(holding(LARGE), len(LARGE) + 1, THERE, token=None, crc32c=crc32c(LARGE))

    play(origin, scene)
    assert gcs.generation("b", "o") == 0


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_refusal_after_a_lost_answer_says_that_the_object_may_be_there(gcs, data):
    kind = "upload" if len(data) < MIB else "resumable"
    last = {"kind": "upload"} if kind == "upload" else chunk_at(2 * CHUNK)
    gcs.faults.add("lost_reply", last)
    gcs.faults.add("403", lambda request: bool(gcs.names("b")), times=None)
    with pytest.raises(Forbidden) as caught:
        storing(gcs, data)
    assert gcs.names("b") == ["o"]
    assert caught.value.details == {"perhaps_stored": True}


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_refusal_of_the_first_request_does_not_say_so(gcs, data):
    gcs.faults.add("403", times=None)
    with pytest.raises(Forbidden) as caught:
        storing(gcs, data)
    assert caught.value.details == {}

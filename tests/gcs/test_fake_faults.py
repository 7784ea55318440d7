"""Each scripted fault once: what goes over the wire, and what the real client makes of it."""

from __future__ import annotations

import http.client
import os
import select
import threading

import pytest
from google.api_core.exceptions import Forbidden, NotFound, PreconditionFailed, RetryError, ServiceUnavailable
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from tests.gcs.raw import ask, same

DATA = os.urandom(300_000)
MEDIA = "/download/storage/v1/b/b/o/o?alt=media"
STAT = "/storage/v1/b/b/o/o"
QUICK = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.01)


@pytest.fixture
def blob(gcs, client):
    gcs.put("b", "o", DATA)
    return client.bucket("b").blob("o")


def test_two_503_and_then_success_is_success_for_the_client(gcs, blob):
    fault = gcs.faults.add("503", times=2)
    assert same(blob.download_as_bytes(retry=QUICK), DATA)
    assert fault.done == 2
    assert gcs.counts["media"] == 3


def test_endless_503_is_an_error_when_the_clients_patience_ends(gcs, blob):
    gcs.faults.add("503", times=None)
    with pytest.raises((RetryError, ServiceUnavailable)):
        blob.reload(retry=QUICK.with_timeout(0.5))
    assert gcs.counts["stat"] > 2


def test_429_says_when_to_come_back(gcs, blob):
    gcs.faults.add("429", retry_after=7)
    reply = ask(gcs.url, "GET", STAT)
    assert (reply.status, reply.headers["Retry-After"], reply.json["error"]["code"]) == (429, "7", 429)
    assert ask(gcs.url, "GET", STAT).status == 200


def test_a_refused_upload_leaves_the_connection_usable_and_stores_nothing(gcs):
    gcs.faults.add("429")
    connection = http.client.HTTPConnection(gcs.url.removeprefix("http://"), timeout=60)
    for status in (429, 200):
        connection.request("PUT", "/b/new", b"x" * 1_000_000)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
        assert gcs.names("b") == (["new"] if status == 200 else [])
    connection.close()


def test_a_reset_connection_is_asked_again_by_the_client(gcs, blob):
    gcs.faults.add("reset", {"kind": "stat"})
    with pytest.raises(ConnectionResetError):
        ask(gcs.url, "GET", STAT)
    gcs.faults.add("reset", {"kind": "media"})
    assert same(blob.download_as_bytes(retry=QUICK), DATA)


def test_a_cut_body_ends_where_told_although_more_was_announced(gcs, blob):
    gcs.faults.add("cut", at=1000)
    with pytest.raises(http.client.IncompleteRead) as error:
        ask(gcs.url, "GET", MEDIA)
    assert same(error.value.partial, DATA[:1000])
    assert gcs.bytes_out == 1000


def test_the_client_goes_on_after_a_cut_body_and_stays_with_the_generation(gcs, blob):
    gcs.faults.add("cut", {"kind": "media"}, at=200_000)
    assert same(blob.download_as_bytes(retry=QUICK), DATA)
    again = gcs.requests[-1]
    start = int(again.range.removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 200_000
    assert again.generation == gcs.generation("b", "o")
    assert gcs.bytes_out == 200_000 + len(DATA) - start


def test_a_flipped_byte_differs_at_one_place_only(gcs, blob):
    gcs.faults.add("flip", at=17)
    body = ask(gcs.url, "GET", MEDIA).body
    assert [at for at in range(len(DATA)) if body[at] != DATA[at]] == [17]
    assert len(body) == len(DATA)
    assert same(ask(gcs.url, "GET", MEDIA).body, DATA)


def test_the_client_notices_a_flipped_byte_in_whole_objects_only(gcs, blob):
    gcs.faults.add("flip", times=3)
    with pytest.raises(DataCorruption):
        blob.download_as_bytes()
    assert blob.download_as_bytes(start=0, end=999) != DATA[:1000]
    gcs.faults.add("no_hash")
    assert blob.download_as_bytes() != DATA


def test_a_stalled_body_goes_on_only_when_the_stall_ends(gcs, blob):
    gcs.faults.add("stall", at=1000)
    connection = http.client.HTTPConnection(gcs.url.removeprefix("http://"), timeout=60)
    connection.request("GET", MEDIA)
    reply = connection.getresponse()
    assert same(reply.read(1000), DATA[:1000])
    assert select.select([connection.sock], [], [], 0.2)[0] == []
    gcs.faults.clear()
    assert same(reply.read(), DATA[1000:])
    connection.close()


def test_a_stall_ends_by_itself_after_its_seconds(gcs, blob):
    gcs.faults.add("stall", times=2, seconds=0.01)
    assert ask(gcs.url, "GET", STAT).status == 200
    assert same(ask(gcs.url, "GET", MEDIA).body, DATA)


def test_a_reply_lost_after_a_create_only_upload_looks_like_a_failed_precondition(gcs, client):
    gcs.faults.add("lost_reply", {"kind": "upload", "name": "new"})
    with pytest.raises(PreconditionFailed):
        client.bucket("b").blob("new").upload_from_string(b"mine", if_generation_match=0, retry=QUICK)
    assert gcs.get("b", "new") == b"mine"
    assert gcs.counts["upload"] == 2


def test_a_reply_lost_after_a_plain_upload_makes_two_generations(gcs, client):
    gcs.bucket("v", versioning=True)
    gcs.faults.add("lost_reply", {"kind": "upload"})
    client.bucket("v").blob("new").upload_from_string(b"mine", retry=QUICK)
    assert gcs.names("v") == ["new"]
    assert len(list(client.list_blobs("v", versions=True))) == 2


def test_a_reply_lost_after_a_deletion_looks_like_absence(gcs, blob):
    gcs.faults.add("lost_reply", {"kind": "delete"})
    with pytest.raises(NotFound):
        blob.delete(retry=QUICK)
    assert gcs.names("b") == []


def test_of_an_upload_cut_in_a_chunk_the_session_keeps_whole_grains(gcs):
    begun = ask(gcs.url, "POST", "/upload/storage/v1/b/b/o?uploadType=resumable", b'{"name": "new"}')
    session = begun.headers["Location"].removeprefix(gcs.url)
    gcs.faults.add("cut", {"method": "PUT", "name": "new"}, at=1_000_000)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(gcs.url, "PUT", session, bytes(4 << 20), Content_Range="bytes 0-4194303/4194304")
    stored = ask(gcs.url, "PUT", session, Content_Range="bytes */*")
    assert (stored.status, stored.headers["Range"]) == (308, f"bytes=0-{3 * 256 * 1024 - 1}")


def test_the_client_survives_an_upload_cut_in_a_chunk(gcs, client):
    data = os.urandom(9 << 20)
    fault = gcs.faults.add("cut", {"kind": "resumable", "method": "PUT"}, at=1_000_000)
    client.bucket("b").blob("new").upload_from_string(data, retry=QUICK)
    assert fault.done == 1
    assert same(gcs.get("b", "new"), data)


def test_an_object_replaced_between_two_ranges_leaves_the_pinned_reader_with_404(gcs, blob):
    pinned = gcs.generation("b", "o")
    gcs.faults.add("replace_between", {"kind": "media"}, data=b"y" * 1000)
    path = f"{MEDIA}&generation={pinned}"
    assert same(ask(gcs.url, "GET", path, Range="bytes=0-9").body, DATA[:10])
    assert ask(gcs.url, "GET", path, Range="bytes=10-19").status == 404
    assert ask(gcs.url, "GET", MEDIA, Range="bytes=10-19").body == b"y" * 10
    assert gcs.generation("b", "o") > pinned


def test_an_answer_without_hash_has_no_checksum_anywhere(gcs, blob):
    gcs.faults.add("no_hash", times=2)
    assert "x-goog-hash" not in ask(gcs.url, "GET", MEDIA, Range="bytes=0-9").headers
    assert "crc32c" not in ask(gcs.url, "GET", STAT).json
    assert "crc32c" in ask(gcs.url, "GET", STAT).json


def test_an_answer_without_generation_unpins_the_clients_blob(gcs, blob):
    gcs.faults.add("no_generation", times=3)
    assert "x-goog-generation" not in ask(gcs.url, "GET", MEDIA).headers
    assert "generation" not in ask(gcs.url, "GET", STAT).json
    assert same(blob.download_as_bytes(), DATA)
    assert blob.generation is None


def test_a_right_revoked_in_the_middle_denies_the_rest(gcs, blob):
    gcs.tokens["tok-ada"] = "ada"
    gcs.allow("b", "ada")
    gcs.faults.add("revoke", lambda request: request.range == "bytes=10-19")
    ranges = [
        ask(gcs.url, "GET", MEDIA, Range=f"bytes={at}-{at + 9}", Authorization="Bearer tok-ada")
        for at in (0, 10, 20)
    ]
    assert [reply.status for reply in ranges] == [206, 403, 403]


def test_a_revoked_right_of_the_anonymous_client_is_an_error_to_it(gcs, blob):
    gcs.faults.add("403", {"kind": "media"})
    with pytest.raises(Forbidden):
        blob.download_as_bytes()
    gcs.faults.add("revoke")
    assert ask(gcs.url, "GET", MEDIA).status == 401


def test_a_fault_happens_to_the_requests_it_matches_and_to_no_others(gcs, blob):
    gcs.put("b", "p", b"p")
    fault = gcs.faults.add("503", {"kind": "media", "name": "p", "bucket": "b"}, times=None)
    assert same(ask(gcs.url, "GET", MEDIA).body, DATA)
    assert ask(gcs.url, "GET", "/b/p").status == 503
    assert fault.done == 1
    gcs.faults.clear()
    assert ask(gcs.url, "GET", "/b/p").body == b"p"


def test_a_fault_that_does_not_exist_cannot_be_scripted(gcs):
    with pytest.raises(ValueError, match="no such fault: earthquake"):
        gcs.faults.add("earthquake")


def test_a_fake_that_closes_lets_nobody_wait(gcs, blob):
    gcs.faults.add("stall", {"kind": "stat"})
    ended = threading.Event()

    def wait():
        try:
            ask(gcs.url, "GET", STAT)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while not gcs.counters.active:
        ended.wait(0.01)
    gcs.faults.clear()
    assert ended.wait(60)

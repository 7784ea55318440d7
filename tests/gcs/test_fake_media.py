"""The fake's answers with object data and metadata: ranges, pins, preconditions, checksums, gzip, web-seed paths."""

from __future__ import annotations

import base64
import gzip
import os

import google_crc32c
import pytest
from google.api_core.exceptions import NotFound, PreconditionFailed, RequestRangeNotSatisfiable
from tests.gcs.fixtures import point_to
from tests.gcs.raw import ask, same

DATA = os.urandom(300_000)
MEDIA = "/download/storage/v1/b/b/o/dir%2Fo?alt=media"
STAT = "/storage/v1/b/b/o/dir%2Fo"


@pytest.fixture
def generation(gcs):
    return gcs.put("b", "dir/o", DATA, content_type="text/x", metadata={"colour": "red"})


def test_the_client_reads_an_object_and_learns_what_it_is(client, generation):
    blob = client.bucket("b").get_blob("dir/o")
    assert (blob.generation, blob.metageneration, blob.size) == (generation, 1, len(DATA))
    assert (blob.content_type, blob.metadata) == ("text/x", {"colour": "red"})
    assert blob.md5_hash is None
    assert blob.etag
    assert blob.updated.tzinfo is not None
    assert same(blob.download_as_bytes(), DATA)


def test_the_media_link_leads_to_exactly_this_generation(gcs, client, generation):
    link = client.bucket("b").get_blob("dir/o").media_link
    assert same(ask(gcs.url, "GET", link.removeprefix(gcs.url)).body, DATA)
    gcs.put("b", "dir/o", b"other")
    assert ask(gcs.url, "GET", link.removeprefix(gcs.url)).status == 404


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=10-19", 10, 20),
        ("bytes=299990-", 299990, 300000),
        ("bytes=-5", 299995, 300000),
        ("bytes=299000-999999", 299000, 300000),
        ("bytes=-999999", 0, 300000),
    ],
)
def test_a_range_is_answered_with_206_its_place_and_the_whole_objects_checksum(
    gcs, generation, asked, start, stop
):
    reply = ask(gcs.url, "GET", MEDIA, Range=asked)
    assert reply.status == 206
    assert same(reply.body, DATA[start:stop])
    assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/300000"
    assert reply.headers["x-goog-generation"] == str(generation)
    whole = google_crc32c.Checksum(DATA).digest()
    assert reply.headers["x-goog-hash"] == "crc32c=" + base64.b64encode(whole).decode()


@pytest.mark.parametrize("asked", ["bytes=20-10", "lines=1-2", "bytes=-", "bytes=1-2,5-6"])
def test_a_range_that_means_nothing_is_answered_with_the_whole_object(gcs, generation, asked):
    reply = ask(gcs.url, "GET", MEDIA, Range=asked)
    assert reply.status == 200
    assert same(reply.body, DATA)


def test_a_range_past_the_end_is_refused_with_416(gcs, client, generation):
    reply = ask(gcs.url, "GET", MEDIA, Range="bytes=300000-")
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")
    with pytest.raises(RequestRangeNotSatisfiable):
        client.bucket("b").blob("dir/o").download_as_bytes(start=300_000, end=300_010)


def test_any_range_of_an_empty_object_is_refused_with_416(gcs):
    gcs.put("b", "dir/o", b"")
    assert ask(gcs.url, "GET", MEDIA, Range="bytes=0-").status == 416
    assert ask(gcs.url, "GET", MEDIA).body == b""


def test_a_generation_that_was_overwritten_is_gone(gcs, client, generation):
    gcs.put("b", "dir/o", b"newer")
    with pytest.raises(NotFound):
        client.bucket("b").blob("dir/o", generation=generation).download_as_bytes()
    with pytest.raises(NotFound):
        client.bucket("b").blob("dir/o", generation=generation).reload()


def test_a_bucket_with_versioning_keeps_old_generations(gcs, client):
    gcs.bucket("v", versioning=True)
    old = gcs.put("v", "o", b"old")
    new = gcs.put("v", "o", b"new")
    assert client.bucket("v").blob("o", generation=old).download_as_bytes() == b"old"
    assert [b.generation for b in client.list_blobs("v", versions=True)] == [old, new]
    assert [b.generation for b in client.list_blobs("v")] == [new]
    assert client.get_bucket("v").versioning_enabled


def test_a_read_on_a_failed_precondition_is_refused_with_412(client, generation):
    blob = client.bucket("b").blob("dir/o")
    with pytest.raises(PreconditionFailed):
        blob.download_as_bytes(if_generation_match=generation + 1)
    with pytest.raises(PreconditionFailed):
        blob.reload(if_metageneration_match=2)
    assert same(blob.download_as_bytes(if_generation_match=generation, if_metageneration_match=1), DATA)


def test_a_reader_who_has_this_generation_already_is_told_304(gcs, generation):
    reply = ask(gcs.url, "GET", f"{MEDIA}&ifGenerationNotMatch={generation}")
    assert (reply.status, reply.body) == (304, b"")
    assert same(ask(gcs.url, "GET", f"{MEDIA}&ifGenerationNotMatch=1").body, DATA)
    assert ask(gcs.url, "GET", f"{STAT}?ifMetagenerationNotMatch=1").status == 304


def test_a_change_of_metadata_raises_the_metageneration_only(gcs, client, generation):
    blob = client.bucket("b").get_blob("dir/o")
    blob.metadata = {"colour": "blue"}
    blob.patch()
    again = client.bucket("b").get_blob("dir/o")
    assert (again.generation, again.metageneration, again.metadata) == (generation, 2, {"colour": "blue"})


PLAIN = b"plain text " * 1000


@pytest.fixture
def zipped(gcs):
    body = gzip.compress(PLAIN)
    gcs.put("b", "dir/o", body, content_encoding="gzip")
    return body


def test_a_gzip_object_is_decompressed_for_whoever_does_not_accept_gzip(gcs, zipped):
    reply = ask(gcs.url, "GET", MEDIA, Accept_Encoding="identity", Range="bytes=0-9")
    assert reply.status == 200
    assert same(reply.body, PLAIN)
    assert "Content-Length" not in reply.headers
    assert "Content-Encoding" not in reply.headers
    assert reply.headers["x-goog-stored-content-encoding"] == "gzip"


def test_a_gzip_object_goes_out_as_stored_to_whoever_accepts_gzip(gcs, client, zipped):
    reply = ask(gcs.url, "GET", MEDIA, Accept_Encoding="gzip", Range="bytes=0-9")
    assert (reply.status, reply.body, reply.headers["Content-Encoding"]) == (206, zipped[:10], "gzip")
    blob = client.bucket("b").blob("dir/o")
    assert same(blob.download_as_bytes(), PLAIN)
    assert same(blob.download_as_bytes(start=0, end=9, raw_download=True), zipped[:10])


def test_web_seeds_read_objects_by_bucket_and_name(gcs, generation):
    head = ask(gcs.url, "HEAD", "/b/dir/o")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "300000")
    assert head.headers["x-goog-generation"] == str(generation)
    assert head.headers["x-goog-meta-colour"] == "red"
    assert same(ask(gcs.url, "GET", "/b/dir/o", Range="bytes=1-3").body, DATA[1:4])
    assert ask(gcs.url, "GET", "/b/absent").status == 404
    assert ask(gcs.url, "GET", "/b/dir/o", x_goog_if_generation_match="7").status == 412


def test_an_absent_bucket_is_not_found_and_a_present_one_describes_itself(client, gcs):
    with pytest.raises(NotFound, match="bucket does not exist"):
        client.bucket("absent").blob("o").reload()
    assert client.lookup_bucket("absent") is None
    assert client.get_bucket("b").location == "US"


def test_what_the_fake_does_not_know_is_said_not_to_be_implemented(gcs):
    assert ask(gcs.url, "POST", "/batch/storage/v1", b"").status == 501


def test_the_emulator_address_is_there_for_one_test_only(monkeypatch):
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with pytest.MonkeyPatch.context() as inner:
        point_to("http://127.0.0.1:1", inner)
        assert os.environ["STORAGE_EMULATOR_HOST"] == "http://127.0.0.1:1"
        point_to(None, inner)
        assert "STORAGE_EMULATOR_HOST" not in os.environ
    assert os.environ.get("STORAGE_EMULATOR_HOST") == before

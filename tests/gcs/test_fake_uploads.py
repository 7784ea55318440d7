"""Uploads to the fake: one request, resumable sessions, preconditions, checksums, deletion, listing."""

from __future__ import annotations

import base64
import os

import google_crc32c
import pytest
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
from tests.gcs.raw import ask, same

MIB = 1 << 20
WITH_X = base64.b64encode(google_crc32c.Checksum(b"x").digest())
UPLOAD = "/upload/storage/v1/b/b/o"


def test_an_upload_in_one_request_keeps_type_and_custom_metadata(gcs, client):
    blob = client.bucket("b").blob("dir/o")
    blob.metadata = {"cached-upload": "17"}
    blob.upload_from_string(b"bytes\r\n--==", content_type="text/x")
    assert gcs.get("b", "dir/o") == b"bytes\r\n--=="
    seen = client.bucket("b").get_blob("dir/o")
    assert (seen.content_type, seen.metadata, seen.generation) == (
        "text/x",
        {"cached-upload": "17"},
        blob.generation,
    )
    assert (gcs.counts["upload"], gcs.bytes_in) == (1, 11)


def test_a_large_upload_is_resumable_and_comes_in_chunks(gcs, client):
    data = os.urandom(9 * MIB)
    blob = client.bucket("b").blob("o", chunk_size=2 * MIB)
    blob.upload_from_string(data)
    assert same(gcs.get("b", "o"), data)
    assert (gcs.counts["upload"], gcs.counts["resumable"]) == (0, 1 + 5)
    assert gcs.bytes_in == len(data)


def test_a_stream_of_unknown_length_is_uploaded_too(gcs, client):
    with client.bucket("b").blob("o", chunk_size=MIB).open("wb") as stream:
        stream.write(b"x" * MIB)
        stream.write(b"y" * 10)
    assert gcs.get("b", "o") == b"x" * MIB + b"y" * 10


def test_every_overwrite_has_a_higher_generation(gcs, client):
    generations = []
    for _ in range(3):
        blob = client.bucket("b").blob("o")
        blob.upload_from_string(b"same")
        generations.append(blob.generation)
    assert generations == sorted(set(generations))
    assert gcs.generation("b", "o") == generations[-1]


@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["one request", "resumable"])
def test_a_create_only_upload_never_overwrites(gcs, client, size):
    client.bucket("b").blob("o").upload_from_string(b"x" * size, if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        client.bucket("b").blob("o").upload_from_string(b"y" * size, if_generation_match=0)
    assert gcs.get("b", "o") == b"x" * size


def test_an_overwrite_of_a_certain_generation_needs_that_one(gcs, client):
    first = gcs.put("b", "o", b"1")
    client.bucket("b").blob("o").upload_from_string(b"2", if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        client.bucket("b").blob("o").upload_from_string(b"3", if_generation_match=first)
    assert gcs.get("b", "o") == b"2"


def test_a_wrong_checksum_refuses_an_upload_in_one_request(gcs):
    parts = (
        b'--X\r\nContent-Type: application/json\r\n\r\n{"name": "o", "crc32c": "%s"}\r\n--X\r\n\r\nx\r\n--X--'
    )
    sent = [
        ask(
            gcs.url,
            "POST",
            f"{UPLOAD}?uploadType=multipart",
            parts % crc,
            Content_Type="multipart/related; boundary=X",
        )
        for crc in (b"AAAAAA==", WITH_X)
    ]
    assert [reply.status for reply in sent] == [400, 200]
    for wrong in ("crc32c=AAAAAA==", "md5=AAAA"):
        assert (
            ask(gcs.url, "POST", f"{UPLOAD}?uploadType=media&name=p", b"x", x_goog_hash=wrong).status == 400
        )
    assert gcs.names("b") == ["o"]


def test_a_wrong_checksum_that_the_client_states_refuses_its_resumable_upload(gcs, client):
    with pytest.raises(BadRequest, match="CRC32C"):
        client.bucket("b").blob("o").upload_from_string(b"x" * 9 * MIB, crc32c_checksum_value="AAAAAA==")
    assert gcs.names("b") == []


def test_a_wrong_checksum_refuses_a_resumable_upload_at_its_end(gcs):
    session = begin(gcs)
    assert ask(gcs.url, "PUT", session, b"x", x_goog_hash="crc32c=AAAAAA==").status == 400
    assert gcs.names("b") == []


def begin(gcs, query="", body=b'{"name": "o"}'):
    reply = ask(gcs.url, "POST", f"{UPLOAD}?uploadType=resumable{query}", body)
    assert reply.status == 200
    return reply.headers["Location"].removeprefix(gcs.url)


def test_a_session_says_how_much_is_stored_and_goes_on_from_there(gcs):
    session = begin(gcs)
    nothing = ask(gcs.url, "PUT", session, Content_Range="bytes */*")
    assert (nothing.status, nothing.headers.get("Range")) == (308, None)
    chunk = ask(gcs.url, "PUT", session, b"x" * MIB, Content_Range=f"bytes 0-{MIB - 1}/*")
    assert (chunk.status, chunk.headers["Range"]) == (308, f"bytes=0-{MIB - 1}")
    asked = ask(gcs.url, "PUT", session, Content_Range="bytes */*")
    assert (asked.status, asked.headers["Range"]) == (308, f"bytes=0-{MIB - 1}")
    assert gcs.names("b") == []
    last = ask(gcs.url, "PUT", session, b"y", Content_Range=f"bytes {MIB}-{MIB}/{MIB + 1}")
    assert (last.status, last.json["size"]) == (200, str(MIB + 1))
    assert gcs.get("b", "o") == b"x" * MIB + b"y"


def test_a_finished_session_answers_with_the_object_it_made(gcs):
    session = begin(gcs)
    made = ask(gcs.url, "PUT", session, b"xyz")
    again = ask(gcs.url, "PUT", session, Content_Range="bytes */*")
    assert (again.status, again.json["generation"]) == (200, made.json["generation"])
    assert ask(gcs.url, "PUT", session, b"xyz", Content_Range="bytes 0-2/3").json == made.json


def test_an_unfinished_chunk_is_kept_in_multiples_of_256_kib(gcs):
    session = begin(gcs)
    reply = ask(gcs.url, "PUT", session, b"x" * 300_000, Content_Range="bytes 0-299999/*")
    assert (reply.status, reply.headers["Range"]) == (308, "bytes=0-262143")


def test_bytes_sent_again_are_stored_once_and_a_gap_is_refused(gcs):
    session = begin(gcs)
    ask(gcs.url, "PUT", session, b"x" * MIB, Content_Range=f"bytes 0-{MIB - 1}/*")
    gap = ask(gcs.url, "PUT", session, b"y", Content_Range=f"bytes {MIB + 1}-{MIB + 1}/*")
    assert gap.status == 400
    again = ask(gcs.url, "PUT", session, b"x" * MIB + b"yy", Content_Range=f"bytes 0-{MIB + 1}/{MIB + 2}")
    assert again.status == 200
    assert gcs.get("b", "o") == b"x" * MIB + b"yy"


def test_a_cancelled_or_unknown_session_is_gone(gcs):
    session = begin(gcs)
    assert ask(gcs.url, "DELETE", session).status == 499
    assert ask(gcs.url, "PUT", session, b"x").status == 404
    assert ask(gcs.url, "PUT", f"{UPLOAD}?uploadType=resumable&upload_id=no", b"x").status == 404


def test_a_precondition_of_a_session_counts_again_at_its_end(gcs):
    session = begin(gcs, "&ifGenerationMatch=0")
    gcs.put("b", "o", b"somebody was quicker")
    assert ask(gcs.url, "PUT", session, b"x").status == 412
    assert gcs.get("b", "o") == b"somebody was quicker"


def test_a_body_of_unannounced_length_is_stored(gcs):
    pieces = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    reply = ask(gcs.url, "PUT", "/b/o", pieces, Transfer_Encoding="chunked", x_goog_meta_colour="red")
    assert reply.status == 200
    assert gcs.get("b", "o") == b"abcde"
    assert ask(gcs.url, "HEAD", "/b/o").headers["x-goog-meta-colour"] == "red"


def test_a_deleted_object_is_gone_and_cannot_be_deleted_twice(gcs, client):
    generation = gcs.put("b", "o", b"x")
    blob = client.bucket("b").blob("o")
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=generation + 1)
    blob.delete(if_generation_match=generation)
    assert not blob.exists()
    with pytest.raises(NotFound):
        blob.delete()
    assert gcs.counts["delete"] == 3


def test_an_object_deleted_by_its_old_generation_is_not_the_new_one(gcs, client):
    old = gcs.put("b", "o", b"old")
    gcs.put("b", "o", b"new")
    with pytest.raises(NotFound):
        client.bucket("b").blob("o", generation=old).delete()
    assert gcs.get("b", "o") == b"new"


NAMES = ["a", "dir/1", "dir/2", "dir/sub/3", "z", "ä"]


@pytest.fixture
def listed(gcs, client):
    for name in reversed(NAMES):
        gcs.put("b", name, name.encode())
    return client


def test_a_list_is_in_the_order_of_names_and_carries_generations(gcs, listed):
    blobs = list(listed.list_blobs("b"))
    assert [blob.name for blob in blobs] == NAMES
    assert [blob.generation for blob in blobs] == [gcs.generation("b", name) for name in NAMES]


def test_a_list_comes_in_pages_none_of_which_repeats_or_leaves_out(gcs, listed):
    assert [blob.name for blob in listed.list_blobs("b", page_size=2)] == NAMES
    assert gcs.counts["list"] == 3


@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_delimiter_folds_names_into_prefixes_on_pages_of_any_size(listed, size):
    pages = listed.list_blobs("b", delimiter="/", page_size=size)
    assert [blob.name for blob in pages] == ["a", "z", "ä"]
    assert pages.prefixes == {"dir/"}


def test_a_prefix_and_offsets_narrow_a_list(listed):
    inner = listed.list_blobs("b", prefix="dir/", delimiter="/")
    assert [blob.name for blob in inner] == ["dir/1", "dir/2"]
    assert inner.prefixes == {"dir/sub/"}
    between = listed.list_blobs("b", start_offset="dir/2", end_offset="z")
    assert [blob.name for blob in between] == ["dir/2", "dir/sub/3"]


def test_an_object_named_like_a_directory_is_folded_as_cloud_storage_does(gcs, client):
    gcs.put("b", "dir/", b"")
    gcs.put("b", "dir/x", b"")
    outer = client.list_blobs("b", delimiter="/")
    assert (list(outer), outer.prefixes) == ([], {"dir/"})
    assert [blob.name for blob in client.list_blobs("b", prefix="dir/", delimiter="/")] == ["dir/", "dir/x"]

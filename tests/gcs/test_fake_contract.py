"""The contract of Cloud Storage that `cached` relies on, so that the fake is not its own judge."""

from __future__ import annotations

import base64
import gzip
import os

import google_crc32c
import pytest
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed, RequestRangeNotSatisfiable
from tests.gcs.judges import cloud, judges
from tests.gcs.raw import same

__all__ = ["cloud"]

DATA = os.urandom(700_000)
MIB = 1 << 20
#: Above 8 MiB the client's uploads are resumable.
BIG = os.urandom(9 * MIB)


@judges()
def test_what_was_uploaded_is_read_back_whole(cloud):
    cloud.blob("o").upload_from_string(DATA, content_type="text/x")
    assert same(cloud.blob("o").download_as_bytes(), DATA)


@judges()
def test_metadata_tells_size_checksum_type_and_custom_fields(cloud):
    blob = cloud.blob("o")
    blob.metadata = {"colour": "red"}
    blob.upload_from_string(DATA, content_type="text/x")
    seen = cloud.bucket.get_blob(cloud.prefix + "o")
    assert (seen.size, seen.content_type, seen.metadata) == (len(DATA), "text/x", {"colour": "red"})
    assert seen.crc32c == base64.b64encode(google_crc32c.Checksum(DATA).digest()).decode()
    assert seen.generation == blob.generation > 0


@judges()
def test_a_range_is_read_with_both_ends_included(cloud):
    cloud.blob("o").upload_from_string(DATA)
    assert same(cloud.blob("o").download_as_bytes(start=1000, end=1999), DATA[1000:2000])
    assert same(cloud.blob("o").download_as_bytes(start=699_990), DATA[-10:])


@judges(emulator_cannot="answers with the whole body")
def test_a_range_from_the_end_is_read(cloud):
    cloud.blob("o").upload_from_string(DATA)
    assert same(cloud.blob("o").download_as_bytes(start=-10), DATA[-10:])


@judges(emulator_cannot="answers 206 with nothing")
def test_a_range_past_the_end_is_not_satisfiable(cloud):
    cloud.blob("o").upload_from_string(b"short")
    with pytest.raises(RequestRangeNotSatisfiable):
        cloud.blob("o").download_as_bytes(start=5, end=9)


@judges(emulator_cannot="leaves both headers out of ranges")
def test_an_answer_with_a_range_names_generation_and_checksum_of_the_whole(cloud):
    blob = cloud.blob("o")
    blob.upload_from_string(DATA)
    reply = cloud.client._http.get(blob.media_link, headers={"Range": "bytes=1-3"}, timeout=60)
    assert (reply.status_code, reply.content) == (206, DATA[1:4])
    assert reply.headers.get("x-goog-generation") == str(blob.generation)
    assert f"crc32c={blob.crc32c}" in reply.headers.get("x-goog-hash", "")


@judges()
def test_a_list_by_prefix_and_delimiter_is_in_the_order_of_names(cloud):
    for name in ("z", "dir/2", "dir/1", "a"):
        cloud.blob(name).upload_from_string(name)
    everything = cloud.client.list_blobs(cloud.bucket, prefix=cloud.prefix)
    assert [blob.name.removeprefix(cloud.prefix) for blob in everything] == ["a", "dir/1", "dir/2", "z"]
    top = cloud.client.list_blobs(cloud.bucket, prefix=cloud.prefix, delimiter="/")
    assert [blob.name.removeprefix(cloud.prefix) for blob in top] == ["a", "z"]
    assert top.prefixes == {cloud.prefix + "dir/"}


@judges(emulator_cannot="does not page")
def test_a_list_comes_in_pages(cloud):
    for name in "abc":
        cloud.blob(name).upload_from_string(name)
    pages = [
        list(page) for page in cloud.client.list_blobs(cloud.bucket, prefix=cloud.prefix, page_size=2).pages
    ]
    assert [[blob.name[-1] for blob in page] for page in pages] == [["a", "b"], ["c"]]


@judges()
def test_a_resumable_upload_arrives_in_chunks(cloud):
    cloud.blob("o", chunk_size=4 * MIB).upload_from_string(BIG)
    assert same(cloud.blob("o").download_as_bytes(), BIG)


@judges()
def test_an_interrupted_upload_says_how_much_is_stored_and_goes_on(cloud):
    session = cloud.blob("o").create_resumable_upload_session()

    def put(body, place):
        answer = cloud.client._http.put(
            session, data=body, headers={"Content-Range": f"bytes {place}"}, timeout=60
        )
        return answer.status_code, answer.headers.get("Range")

    assert put(BIG[:MIB], f"0-{MIB - 1}/*") == (308, f"bytes=0-{MIB - 1}")
    assert put(b"", "*/*") == (308, f"bytes=0-{MIB - 1}")
    assert not cloud.blob("o").exists()
    assert put(BIG[MIB : MIB + 9], f"{MIB}-{MIB + 8}/{MIB + 9}")[0] == 200
    assert same(cloud.blob("o").download_as_bytes(), BIG[: MIB + 9])


@judges()
def test_an_overwrite_raises_the_generation(cloud):
    generations = []
    for text in ("one", "two"):
        blob = cloud.blob("o")
        blob.upload_from_string(text)
        generations.append(blob.generation)
    assert generations[0] < generations[1]
    assert cloud.blob("o").download_as_bytes() == b"two"


@judges(emulator_cannot="serves the new bytes for the old generation")
def test_an_overwritten_generation_is_not_found(cloud):
    old = cloud.blob("o")
    old.upload_from_string("one")
    cloud.blob("o").upload_from_string("two")
    with pytest.raises(NotFound):
        cloud.blob("o", generation=old.generation).download_as_bytes()


@judges(emulator_cannot="overwrites")
def test_a_create_only_upload_fails_when_there_is_an_object(cloud):
    cloud.blob("o").upload_from_string("one", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        cloud.blob("o").upload_from_string("two", if_generation_match=0)


@judges(emulator_cannot="deletes")
def test_a_deletion_of_another_generation_fails(cloud):
    blob = cloud.blob("o")
    blob.upload_from_string("one")
    with pytest.raises(PreconditionFailed):
        cloud.blob("o").delete(if_generation_match=blob.generation + 1)


@judges()
def test_a_wrong_checksum_refuses_an_upload(cloud):
    with pytest.raises(BadRequest):
        cloud.blob("o").upload_from_string(BIG, crc32c_checksum_value="AAAAAA==")
    assert not cloud.blob("o").exists()


@judges()
def test_what_was_deleted_or_never_was_is_not_found(cloud):
    cloud.blob("o").upload_from_string("one")
    cloud.blob("o").delete()
    for name in ("o", "never"):
        with pytest.raises(NotFound):
            cloud.blob(name).download_as_bytes()
        assert cloud.bucket.get_blob(cloud.prefix + name) is None


@judges()
def test_stored_gzip_bytes_are_read_as_they_are_when_asked_raw(cloud):
    packed = gzip.compress(DATA)
    blob = cloud.blob("o")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed)
    seen = cloud.bucket.get_blob(cloud.prefix + "o")
    assert (seen.size, seen.content_encoding) == (len(packed), "gzip")
    assert same(seen.download_as_bytes(raw_download=True), packed)


@judges(emulator_cannot="leaves out the content encoding")
def test_stored_gzip_bytes_are_unpacked_by_the_client_unless_asked_raw(cloud):
    blob = cloud.blob("o")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(DATA))
    assert same(cloud.blob("o").download_as_bytes(), DATA)


@judges()
def test_a_change_of_metadata_keeps_the_generation(cloud):
    blob = cloud.blob("o")
    blob.upload_from_string("one")
    before = (blob.generation, blob.metageneration)
    blob.metadata = {"colour": "blue"}
    blob.patch()
    seen = cloud.bucket.get_blob(cloud.prefix + "o")
    assert (seen.generation, seen.metageneration) == (before[0], before[1] + 1)
    assert seen.metadata == {"colour": "blue"}

"""Objects on `api.sock`, as curl sees them."""

from __future__ import annotations

import base64
import errno
import http.client
import json
import logging
import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.api import spool
from cached.errors import NoSpace
from tests.api.fake_daemon import Daemon, running
from tests.api.test_local_http import Http

DATA = bytes(range(256)) * 2000
CHR = "/v1/objects/genomes/chr/1.fa"
ADA = {"Authorization": "Bearer tok-ada"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.cloud.plant("gs://genomes/chr/1.fa", DATA, content_type="text/plain")
        yield daemon


@pytest.fixture
def http_(daemon: Daemon) -> Iterator[Http]:
    connection = Http(daemon)
    yield connection
    connection.close()


def code(http_, method, path, body=None, **headers):
    _, data = http_.ask(method, path, body, **headers)
    return json.loads(data)["error"]["code"]


@pytest.mark.parametrize("through", [False, True])
def test_get_sends_the_bytes_and_says_which_generation(daemon, http_, through):
    if through:
        daemon.node.cloud.through.add("chr/1.fa")
    response, data = http_.ask("GET", CHR, **ADA)
    assert (response.status, data) == (200, DATA)
    view = daemon.node.cloud.view("genomes", "chr/1.fa")
    assert response.headers["ETag"] == f'"{view.generation}"'
    assert response.headers["x-goog-generation"] == str(view.generation)
    assert (
        response.headers["x-goog-hash"] == "crc32c=" + base64.b64encode(bytes.fromhex(view.crc32c)).decode()
    )
    assert response.headers["Content-Type"] == "text/plain"
    assert set(daemon.node.cloud.seen) == {"tok-ada"}
    daemon.until(lambda: not +daemon.node.cloud.pins)


def test_head_tells_the_same_and_brings_nothing(daemon, http_):
    response, data = http_.ask("HEAD", CHR, **ADA)
    assert (response.status, data) == (200, b"")
    assert response.headers["Content-Length"] == str(len(DATA))
    assert response.headers["ETag"]
    assert not daemon.node.cloud.calls
    response, _ = http_.ask("HEAD", "/v1/objects/genomes/none", **ADA)
    assert response.status == 404


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=100-299999", 100, 299_999), ("bytes=511999-", 511_999, 511_999),
     ("bytes=-100", 511_900, 511_999), ("bytes=5-99999999", 5, 511_999)],
)  # fmt: skip
def test_one_range_is_sent_alone(daemon, http_, through, asked, first, last):
    if through:
        daemon.node.cloud.through.add("chr/1.fa")
    response, data = http_.ask("GET", CHR, Range=asked)
    assert response.status == 206
    assert data == DATA[first : last + 1]
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"


@pytest.mark.parametrize("through", [False, True])
def test_a_range_outside_is_416_and_other_ranges_are_the_whole(daemon, http_, through):
    if through:
        daemon.node.cloud.through.add("chr/1.fa")
    for asked in ("bytes=512000-", "bytes=9999999-10000000", "bytes=-0"):
        response, _ = http_.ask("GET", CHR, Range=asked)
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{len(DATA)}"
    for asked in ("bytes=0-1,5-6", "lines=0-1", "bytes=9-5", "bytes=a-b"):
        response, data = http_.ask("GET", CHR, Range=asked)
        assert (response.status, len(data)) == (200, len(DATA))
    daemon.until(lambda: not +daemon.node.cloud.pins)


def test_conditions_compare_the_generation(daemon, http_):
    generation = daemon.node.cloud.objects["genomes", "chr/1.fa"].generation
    assert http_.ask("GET", CHR, If_None_Match=f'"{generation}"')[0].status == 304
    assert http_.ask("GET", CHR, If_None_Match='"7"')[0].status == 200
    assert http_.ask("GET", CHR, Range="bytes=0-1", If_Range='"7"')[0].status == 200
    assert http_.ask("GET", CHR, Range="bytes=0-1", If_Range=f'"{generation}"')[0].status == 206


def test_an_empty_object_is_sent_and_has_no_ranges(daemon, http_):
    daemon.node.cloud.plant("gs://genomes/empty", b"")
    assert http_.ask("GET", "/v1/objects/genomes/empty")[1] == b""
    assert http_.ask("GET", "/v1/objects/genomes/empty", Range="bytes=0-")[0].status == 416


@pytest.mark.parametrize(
    "name", ["a b", "a//b", "a/../b", "ünï/\U0001f40d", "a?b#c&d=e", "%41", "/lead", "trail/", "x" * 1024]
)
def test_every_name_that_cloud_storage_knows_can_be_asked_for(daemon, http_, name):
    daemon.node.cloud.plant(f"gs://genomes/{name}", b"found")
    assert http_.ask("GET", f"/v1/objects/genomes/{urllib.parse.quote(name, safe='')}")[1] == b"found"


def test_what_names_nothing_is_a_usage_error(daemon, http_):
    for path in ("/v1/objects/genomes/" + "x" * 1025, "/v1/objects/UPPER/x",
                 "/v1/objects/genomes/x?generation=-1", "/v1/objects/genomes/x?generation=many",
                 "/v1/objects/genomes/x?keep=yes", f"/v1/objects/genomes/x?generation={2**63}", "/v1/objects",
                 "/v1/objects?prefix=genomes", "/v1/stat", "/v1/stat?address=nr"):  # fmt: skip
        assert code(http_, "GET", path) == "usage", path
    assert not daemon.node.cloud.seen


def test_the_query_says_generation_scope_and_keeping(daemon, http_):
    generation = daemon.node.cloud.objects["genomes", "chr/1.fa"].generation
    assert http_.ask("GET", f"{CHR}?generation={generation}&scope=b7&keep=memory")[0].status == 200
    assert daemon.node.cloud.calls == [("open", f"gs://genomes/chr/1.fa#{generation}", "b7", "memory")]
    assert code(http_, "GET", f"{CHR}?generation=7") == "origin_changed"


@pytest.mark.parametrize(
    "given", ["Basic YWRhOnNlY3JldA==", "Bearer", "Bearer sec ret", "secret", "Bearer s\xe9cret"]
)
def test_an_authorization_of_another_kind_is_refused_and_not_repeated(daemon, http_, caplog, given):
    caplog.set_level(logging.DEBUG)
    response, data = http_.ask("GET", CHR, Authorization=given)
    assert response.status == 400
    assert b"secret" not in data
    assert b"YWRh" not in data
    assert "secret" not in caplog.text
    assert not daemon.node.cloud.seen


def test_a_token_with_a_line_end_does_not_become_a_header(daemon, caplog):
    caplog.set_level(logging.DEBUG)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(60)
        raw.connect(str(daemon.runtime / "api.sock"))
        raw.sendall(
            f"GET {CHR} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tok-secret\rX: y\r\n\r\n".encode()
        )
        assert b" 400 " in raw.recv(65536).splitlines()[0]
    assert not daemon.node.cloud.seen
    assert "tok-secret" not in caplog.text


def test_what_fails_before_the_first_byte_is_an_error_and_afterwards_a_broken_connection(daemon, http_):
    cloud = daemon.node.cloud
    cloud.through.add("chr/1.fa")
    cloud.breaks_after = 0
    assert code(http_, "GET", CHR) == "origin_changed"
    cloud.breaks_after = 200_000
    other = Http(daemon)
    other.request("GET", CHR)
    response = other.getresponse()
    assert response.status == 200
    with pytest.raises((OSError, http.client.IncompleteRead)):
        response.read()
    other.close()
    daemon.until(lambda: cloud.streams == 0)


def test_a_client_that_leaves_in_mid_stream_ends_the_stream(daemon):
    cloud = daemon.node.cloud
    cloud.plant("gs://genomes/huge", bytes(64 << 20))
    cloud.through.add("huge")
    other = Http(daemon)
    other.request("GET", "/v1/objects/genomes/huge")
    response = other.getresponse()
    assert len(response.read(1000)) == 1000
    daemon.until(lambda: cloud.streams == 1)
    response.close()
    other.close()
    daemon.until(lambda: cloud.streams == 0)


def test_lists_have_items_and_prefixes(daemon, http_):
    daemon.node.cloud.plant("gs://genomes/readme", b"x")
    status, value = http_.json("GET", "/v1/objects?prefix=gs://genomes&delimiter=/")
    assert status == 200
    assert [each["name"] for each in value["items"]] == ["readme"]
    assert value["prefixes"] == ["chr/"]
    _, value = http_.json("GET", "/v1/objects?prefix=gs%3A%2F%2Fgenomes%2Fchr%2F")
    assert [each["name"] for each in value["items"]] == ["chr/1.fa"]
    assert http_.json("GET", "/v1/objects?prefix=gs://absent-bucket")[0] == 404


def test_a_list_comes_as_it_is_read_and_says_at_its_end_why_it_is_not_whole(daemon, http_):
    cloud = daemon.node.cloud
    cloud.plant("gs://genomes/readme", b"x")
    _, value = http_.json("GET", "/v1/objects?prefix=gs://genomes")
    assert [each["name"] for each in value["items"]] == ["chr/1.fa", "readme"]
    assert "error" not in value
    assert http_.json("GET", "/v1/objects?prefix=gs://genomes/none")[1] == {"items": [], "prefixes": []}
    cloud.lists_break = True
    status, value = http_.json("GET", "/v1/objects?prefix=gs://genomes")
    assert status == 200
    assert [each["name"] for each in value["items"]] == ["chr/1.fa"]
    assert value["error"]["code"] == "origin_unavailable"


def test_the_head_of_a_list_is_not_to_be_had_and_breaks_no_connection(http_):
    response, data = http_.ask("HEAD", "/v1/objects?prefix=gs://genomes")
    assert (response.status, data) == (405, b"")
    assert http_.json("GET", "/v1/objects?prefix=gs://genomes")[0] == 200


def test_stat_describes_one_object(daemon, http_):
    status, value = http_.json("GET", "/v1/stat?address=gs://genomes/chr/1.fa")
    assert (status, value["size"], value["content_type"]) == (200, len(DATA), "text/plain")


def test_put_stores_the_body_and_leaves_no_file(daemon, http_, tmp_path):
    before = set(daemon.root.iterdir())
    response, data = http_.ask(
        "PUT",
        "/v1/objects/results/a/b.csv?if_generation=0&scope=b7",
        DATA * 20,
        Content_Type="text/csv",
        **ADA,
    )
    assert response.status == 200, data
    stored = daemon.node.cloud.objects["results", "a/b.csv"]
    assert (stored.data, stored.content_type, stored.scope) == (DATA * 20, "text/csv", "b7")
    assert set(daemon.root.iterdir()) == before
    assert daemon.node.cloud.seen == ["tok-ada"]
    assert code(http_, "PUT", "/v1/objects/results/a/b.csv?if_generation=0", b"x") == "origin_changed"


def test_put_takes_a_body_without_a_length(daemon):
    other = Http(daemon)
    other.request("PUT", "/v1/objects/results/x", iter([b"one ", b"two ", b"three"]), encode_chunked=True,
                  headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert other.getresponse().status == 200
    other.close()
    assert daemon.node.cloud.objects["results", "x"].data == b"one two three"


def test_a_put_that_ends_early_stores_nothing(daemon):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.runtime / "api.sock"))
        raw.sendall(b"PUT /v1/objects/results/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
        daemon.settle()
    http_ = Http(daemon)
    assert http_.ask("GET", CHR)[0].status == 200
    http_.close()
    assert ("results", "x") not in daemon.node.cloud.objects
    assert not daemon.node.cloud.calls or daemon.node.cloud.calls[0][0] != "put"


def test_a_put_is_refused_before_a_byte_of_it_is_written(daemon, http_):
    daemon.most_spooled = 999
    response, data = http_.ask("PUT", "/v1/objects/results/x", b"x" * 1000)
    assert (response.status, b"no_space" in data) == (NoSpace.status, True)
    assert not daemon.node.cloud.calls


def test_a_full_partition_is_told_in_words(daemon, http_, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "_put", full)
    assert code(http_, "PUT", "/v1/objects/results/x", b"x" * 1000) == "no_space"


def test_copies_are_the_caller_s_and_below_a_prefix_if_one_is_named(daemon, http_):
    generation = daemon.node.cloud.plant("gs://genomes/chr1", b"abc")
    status, found = http_.json("GET", "/v1/copies")
    assert (status, found["items"][0]["address"]) == (200, f"gs://genomes/chr1#{generation}")
    assert http_.json("GET", "/v1/copies?prefix=gs://genomes/chr")[0] == 200
    (_, user, everything), (_, _, prefix) = daemon.node.cloud.calls
    assert (bool(user), everything, str(prefix)) == (True, None, "gs://genomes/chr")
    assert code(http_, "GET", "/v1/copies?prefix=genomes") == "usage"


def test_clear_and_the_end_of_a_scope(daemon, http_):
    status, value = http_.json("POST", "/v1/clear", {"prefix": "gs://genomes/chr", "user": "eve"})
    assert (status, value["entries"], value["items"][1]["reason"]) == (200, 2, "it does not answer")
    assert http_.json("POST", "/v1/clear", {})[0] == 200
    calls = daemon.node.cloud.calls
    assert (str(calls[0][1]), calls[0][2], calls[1][1:]) == ("gs://genomes/chr", "eve", (None, None))
    assert http_.json("POST", "/v1/clear", {"prefix": "genomes"})[0] == 400
    response, data = http_.ask("POST", "/v1/scopes/b7/end", {"delete_origin": True}, **ADA)
    assert response.status == 200
    last = json.loads(data.splitlines()[-1])["result"]
    assert (last["scope"], last["origin_objects"], last["dry_run"]) == ("b7", 1, False)
    assert calls[-1] == ("end", "b7", True, False)
    assert daemon.node.cloud.seen[-1] == "tok-ada"


def test_a_content_type_that_cannot_stand_in_a_header_is_left_out(daemon, http_):
    daemon.node.cloud.plant("gs://genomes/odd", b"x", content_type="text/x\r\nX-Evil: 1")
    response, _ = http_.ask("GET", "/v1/objects/genomes/odd")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert "X-Evil" not in response.headers


def test_a_node_without_objects_says_so(daemon, http_, monkeypatch):
    object.__setattr__(daemon.verbs, "objects", None)
    assert code(http_, "GET", CHR) == "refused"


@pytest.mark.parametrize("through", [False, True])
def test_a_client_that_leaves_before_it_has_all_is_no_error_of_the_daemon(daemon, through, caplog):
    caplog.set_level(logging.INFO)
    cloud = daemon.node.cloud
    cloud.plant("gs://genomes/huge", bytes(64 << 20))
    if through:
        cloud.through.add("huge")
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(daemon.runtime / "api.sock"))
            raw.sendall(b"GET /v1/objects/genomes/huge HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(1000)
    daemon.until(lambda: cloud.streams == 0 and not +cloud.pins)
    daemon.settle()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

"""`api.sock` as curl sees it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cached.errors import Busy
from tests.api.fake_daemon import Daemon, plant, running
from tests.api.fake_node import root_of

HELLO = b"hello, world\n"
TAG = f'"{root_of(HELLO)}"'


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon


class Http(http.client.HTTPConnection):
    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost", timeout=60)
        self.path = str(daemon.runtime / "api.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None, **headers):
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        with contextlib.suppress(BrokenPipeError):  # the daemon may have answered and closed already
            self.request(method, path, data, {key.replace("_", "-"): value for key, value in headers.items()})
        response = self.getresponse()
        return response, response.read()

    def json(self, method, path, body=None):
        response, data = self.ask(method, path, body)
        return response.status, json.loads(data)


@pytest.fixture
def http_(daemon: Daemon) -> Iterator[Http]:
    connection = Http(daemon)
    yield connection
    connection.close()


def test_lists_are_items_and_sets_have_all_fields(http_):
    status, value = http_.json("GET", "/v1/sets?local=1")
    assert status == 200
    (item,) = value["items"]
    assert item["name"] == "nr"
    assert item["lease"] is None
    assert http_.json("GET", "/v1/sets/nr") == (200, item)
    assert http_.json("GET", f"/v1/sets/id%3A{item['id'][:8]}") == (200, item)
    files = http_.json("GET", "/v1/sets/root%3Anr/files")[1]["items"]
    assert {each["path"]: each["kind"] for each in files}["sub/link"] == "link"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/sets/nothing", None, 404, "not_found"),
        ("GET", "/nowhere", None, 404, "not_found"),
        ("POST", "/v1/sets", None, 405, "usage"),
        ("GET", "/v1/sets/a%2Fb", None, 400, "usage"),
        ("GET", "/v1/sets/-x", None, 400, "bad_name"),
        ("GET", "/v1/sets?local=perhaps", None, 400, "usage"),
        ("PATCH", "/v1/sets/nr", {"colour": "red"}, 400, "usage"),
        ("PATCH", "/v1/sets/nr", "{", 400, "usage"),
        ("PATCH", "/v1/sets/nr", '{"deep":' + "[" * 150_000, 400, "usage"),
        ("POST", "/v1/sets/nr/extend", {"lease_seconds": 10**30}, 400, "usage"),
        ("POST", "/v1/sets/nr/extend", {}, 400, "usage"),
        ("POST", "/v1/sets/nr/extend", {"lease_seconds": -1}, 400, "usage"),
        ("POST", "/v1/sets/nothing/replicate", {}, 404, "not_found"),
        ("GET", "/v1/locate", None, 400, "usage"),
        ("GET", "/v1/sets/nr/content/explode", None, 500, "failed"),
        ("GET", "/v1/sets/nr/content/none", None, 404, "not_found"),
        ("GET", "/v1/sets/nr/content/sub", None, 400, "usage"),
        ("PATCH", "/v1/sets/nr", "x" * (1 << 21), 413, "usage"),
    ],
)
def test_every_error_has_the_one_form_and_leaks_nothing(http_, method, path, body, status, code):
    response, data = http_.ask(method, path, body)
    assert response.status == status
    error = json.loads(data)["error"]
    assert error["code"] == code
    assert error["message"]
    assert set(error) == {"code", "message", "hint", "details"}
    assert b"secret" not in data
    assert b"Traceback" not in data


def test_update_passes_on_only_what_was_given(http_, daemon):
    assert http_.json("PATCH", "/v1/sets/nr", {"share": "public", "replicas": -1})[0] == 200
    assert daemon.node.calls[-1][2] == {"share": "public", "replicas": -1}


def test_the_ad_of_a_real_job_fits_into_a_request(http_, daemon):
    ad = 'Environment = "' + "x y;" * 16_000 + '"'
    assert http_.json("GET", f"/v1/locate?name=nr&job_ad={urllib.parse.quote(ad)}")[0] == 200
    assert daemon.node.calls[-1] == ("locate", ("nr",), ad)


def test_limits_are_shown_and_changed_as_far_as_they_are_named(http_, daemon):
    shown = {"upload_bytes_per_second": None, "download_bytes_per_second": 7, "configured": True}
    assert http_.json("GET", "/v1/limits") == (200, shown)
    assert http_.json("PATCH", "/v1/limits", {"upload_bytes_per_second": None}) == (200, shown)
    assert daemon.node.calls[-1] == ("limit", {"upload": None})
    assert http_.json("PATCH", "/v1/limits", {"download_bytes_per_second": 9})[0] == 200
    assert daemon.node.calls[-1] == ("limit", {"download": 9})
    for wrong in ({"upload_bytes_per_second": 0}, {"upload": 1}, {"download_bytes_per_second": "fast"}):
        assert http_.json("PATCH", "/v1/limits", wrong)[0] == 400


def test_extend_delete_match_nodes_status_usage_locate_answer(http_, daemon):
    status, value = http_.json("POST", "/v1/sets/nr/extend", {"lease_seconds": 60, "everywhere": True})
    assert status == 200
    assert [grant["seconds"] for grant in value["grants"]] == [60, 60]
    assert http_.json("GET", "/v1/match/nr")[1]["items"][0]["matches"] is True
    assert http_.json("GET", "/v1/nodes")[1] == {"items": []}
    assert http_.json("GET", "/v1/status")[1] == {"user": "root", "admin": True}
    assert http_.json("GET", "/v1/usage")[1] == {"items": []}
    assert daemon.node.calls[-1] == ("usage", None, None, None)
    assert http_.json("GET", "/v1/usage?user=bob&since=7d&scope=")[0] == 200
    assert daemon.node.calls[-1] == ("usage", "bob", "7d", "")
    located = http_.json("GET", "/v1/locate?name=nr&name=b&job_ad=%5B%5D")[1]
    assert located == {"items": [], "directory_age_seconds": 0.5, "sets": []}
    assert daemon.node.calls[-1] == ("locate", ("nr", "b"), "[]")
    assert http_.json("DELETE", "/v1/sets/nr?dry_run=1&everywhere=1")[1]["dry_run"] is True
    assert http_.json("DELETE", "/v1/sets/nr")[1]["state"] == "WITHDRAWN"
    assert http_.json("GET", "/v1/sets/nr")[0] == 404


def test_content_comes_whole_with_the_root_as_entity_tag(http_, daemon):
    response, data = http_.ask("GET", "/v1/sets/nr/content/a.txt")
    assert (response.status, data) == (200, HELLO)
    assert response.headers["ETag"] == TAG
    assert response.headers["Accept-Ranges"] == "bytes"
    response, data = http_.ask("GET", "/v1/sets/nr/content/sub/deep/%C3%BCn%C3%AF%20%F0%9F%90%8D.bin")
    assert data == bytes(range(256)) * 40
    response, data = http_.ask("HEAD", "/v1/sets/nr/content/a.txt")
    assert (response.headers["Content-Length"], data) == ("13", b"")
    response, data = http_.ask("GET", "/v1/sets/nr/content/sub/empty")
    assert (response.status, data, response.headers["ETag"]) == (200, b"", '"empty"')
    daemon.until(lambda: +daemon.node.pins == {})


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-4", 0, 5),
        ("bytes=7-", 7, 13),
        ("bytes=-3", 10, 13),
        ("bytes=5-999", 5, 13),
        ("bytes=-99", 0, 13),
    ],
)
def test_one_range_is_answered_with_206(http_, asked, start, end):
    response, data = http_.ask("GET", "/v1/sets/nr/content/a.txt", Range=asked)
    assert (response.status, data) == (206, HELLO[start:end])
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/13"


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=4-2", "bytes=-", "bytes=\u0663-"])
def test_ranges_that_are_not_served_get_the_whole_file(http_, asked):
    response, data = http_.ask("GET", "/v1/sets/nr/content/a.txt", Range=asked.encode("utf-8"))
    assert (response.status, data) == (200, HELLO)


@pytest.mark.parametrize("asked", ["bytes=13-", "bytes=99-100", "bytes=-0"])
def test_a_range_outside_the_file_is_416(http_, asked):
    response, data = http_.ask("GET", "/v1/sets/nr/content/a.txt", Range=asked)
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */13"
    assert json.loads(data)["error"]["code"] == "usage"


def test_conditions_compare_the_root(http_):
    path = "/v1/sets/nr/content/a.txt"
    assert http_.ask("GET", path, If_None_Match=TAG)[0].status == 304
    assert http_.ask("GET", path, If_None_Match='"other"')[0].status == 200
    assert http_.ask("GET", path, Range="bytes=0-1", If_Range=TAG)[0].status == 206
    assert http_.ask("GET", path, Range="bytes=0-1", If_Range='"other"')[0].status == 200


def test_a_large_file_arrives_unharmed(http_, daemon, tmp_path):
    data = bytes(range(251)) * 80_000
    (tmp_path / "source" / "big").write_bytes(data)
    assert http_.ask("GET", "/v1/sets/nr/content/big")[1] == data
    assert http_.ask("GET", "/v1/sets/nr/content/big", Range="bytes=1000000-")[1] == data[1_000_000:]


def test_long_work_streams_progress_and_then_its_result(http_, daemon):
    response, data = http_.ask(
        "POST", "/v1/sets/nr/replicate", {"replicas": 2, "to": ["b"], "wait": True, "timeout_seconds": 5}
    )
    assert response.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in data.splitlines()]
    assert lines[0]["progress"]["bytes_wanted"] == 2
    assert lines[-1]["result"]["complete"] is True
    assert ("replicate", 2, ("b",), True, 5.0) in daemon.node.calls


def test_an_error_after_the_first_line_is_the_last_line(http_):
    response, data = http_.ask("POST", "/v1/sets/nr/verify", {"repair": True})
    assert response.status == 200
    assert json.loads(data.splitlines()[-1])["error"]["code"] == "not_found"


def test_whoever_leaves_stops_watching_but_not_the_work(daemon):
    daemon.hold()
    connection = Http(daemon)
    connection.request("POST", "/v1/sets/nr/fetch", "{}")
    connection.getresponse().readline()
    connection.close()
    daemon.settle()
    assert ("worked",) not in daemon.node.calls
    daemon.go_on()
    daemon.until(lambda: ("worked",) in daemon.node.calls)


def test_metrics_speak_prometheus_and_name_no_sets(http_):
    http_.ask("GET", "/v1/sets/nr")
    http_.ask("GET", "/v1/sets/nothing")
    text = http_.ask("GET", "/v1/metrics")[1].decode()
    assert 'cached_request_seconds_count{op="GET /v1/sets/{ref}"} 2.0' in text
    assert 'cached_request_errors_total{code="not_found",op="GET /v1/sets/{ref}"} 1.0' in text
    assert "nothing" not in text


def test_a_user_has_a_limited_number_of_connections_and_the_next_is_told_so(tmp_path):
    with running(tmp_path, http_connections=4) as daemon:
        held = [Http(daemon) for _ in range(4)]
        for one in held:
            assert one.json("GET", "/v1/sets")[0] == 200
        fifth = Http(daemon)
        status, value = fifth.json("GET", "/v1/sets")
        assert (status, value["error"]["code"]) == (Busy.status, "busy")
        fifth.close()
        held.pop().close()
        deadline = time.monotonic() + 60
        while (again := Http(daemon)).json("GET", "/v1/sets")[0] != 200:
            again.close()
            assert time.monotonic() < deadline
        for one in (again, *held):
            one.close()

"""What is no HTTP, or only just is: answered in its place, and without a traceback in the log."""

from __future__ import annotations

import http.client
import logging
import socket
import urllib.parse

import pytest
from tests.api.fake_daemon import plant, running


@pytest.fixture
def daemon(tmp_path):
    with running(tmp_path) as daemon:
        daemon.node.put("nr", plant(tmp_path / "source"))
        yield daemon


def say(daemon, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(daemon.runtime / "api.sock"))
        client.sendall(data)
        return client.recv(1 << 16)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/sets HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /v1/sets HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_counted_without_a_traceback(daemon, caplog, data):
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        assert say(daemon, data).startswith(b"HTTP/1.0 400") or say(daemon, data).startswith(b"HTTP/1.1 400")
    assert not [one for one in caplog.records if one.exc_info and one.levelno > logging.DEBUG]
    assert b" 200 " in say(daemon, b"GET /v1/sets HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize("end", [b"\x7f", b"\x00", b"\r\nno header", b"." * 40_000])
def test_a_token_in_a_header_that_is_none_is_not_repeated_to_anybody(daemon, caplog, end):
    caplog.set_level(logging.DEBUG)
    answer = say(
        daemon, b"GET /v1/sets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ya29.secret" + end + b"\r\n\r\n"
    )
    assert b" 400 " in answer
    assert b"secret" not in answer
    assert "ya29" not in caplog.text


def test_the_longest_legal_path_fits_into_a_request(daemon):
    path = "/".join(["\u00fc" * 127] * 16)[:1940]
    client = http.client.HTTPConnection("localhost", timeout=60)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.settimeout(60)
    client.sock.connect(str(daemon.runtime / "api.sock"))
    target = "/v1/sets/nr/content/" + urllib.parse.quote(path)
    assert len(target) > 11_000
    client.request("GET", target)
    response = client.getresponse()
    assert response.status == 404, response.read()
    client.close()

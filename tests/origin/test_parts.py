"""A part of an object whose attempts overlap: a thread that was given up does no harm."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

from cached.origin.calls import Part
from cached.origin.failures import Failed
from cached.origin.values import Pinned

PINNED = Pinned("b", "o", generation=7, size=100, crc32c=0)


class Answers:
    """A client whose first answer dawdles until the second one comes; the bytes are those of the range."""

    API_BASE_URL = "http://127.0.0.1"

    def __init__(self, data: bytes) -> None:
        self._http = self._connection = self
        self.data, self.asked = data, 0
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    @contextlib.contextmanager
    def request(self, _method, _url, *, headers, **_):
        self.asked += 1
        first = int(headers["Range"].removeprefix("bytes=").split("-")[0])
        pieces = self._pieces(self.asked == 1, self.data[first:])
        size = len(self.data)
        yield SimpleNamespace(
            status_code=206,
            headers={"Content-Range": f"bytes {first}-{size - 1}/{size}"},
            raw=SimpleNamespace(stream=lambda *_, **__: pieces),
        )

    def _pieces(self, slow, rest):
        yield rest[:10]
        if slow:
            self.begun.set()
            assert self.go.wait(60)
        else:
            self.go.set()
            assert self.ended.wait(60)
        yield rest[10:20]
        yield rest[20:]


def test_an_attempt_that_was_given_up_adds_nothing_beside_the_next_one():
    data = bytes(range(100))
    client, part = Answers(data), Part(PINNED, 0, 100)
    failures = []

    def first():
        try:
            part.read(client, 60)
        except Failed as error:
            failures.append(error.cause)
        finally:
            client.ended.set()

    given_up = threading.Thread(target=first)
    given_up.start()
    assert client.begun.wait(60)
    part.read(client, 60)
    given_up.join(60)
    assert b"".join(part.take()) == data
    assert failures == ["abandoned"]

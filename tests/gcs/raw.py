"""Plain HTTP to a server, without anything a client library would hide."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """Status, headers and body of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """One request on a connection of its own; underscores in header names stand for dashes."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


def same(found: bytes, wanted: bytes) -> bool:
    """Whether bytes are equal: of large ones pytest would compute, for minutes, a difference that nobody can read."""
    return found == wanted

"""What is asked of the fake: kind of request, bucket and object, taken from method, path and query."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.gcs.store import Conditions, Refusal

#: stat, media, list, upload, resumable, delete, bucket, and patch (metadata change).
_ROUTES = [
    (re.compile(r"(?P<way>/upload|/resumable/upload)/storage/v1/b/(?P<bucket>[^/]+)/o"), "upload"),
    (re.compile(r"(?P<way>/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>.+)"), "object"),
    (re.compile(r"(?P<way>)/storage/v1/b/(?P<bucket>[^/]+)/o"), "list"),
    (re.compile(r"(?P<way>)/storage/v1/b/(?P<bucket>[^/]+)"), "bucket"),
    (re.compile(r"(?P<way>)/(?!storage/|upload/|download/|batch)(?P<bucket>[^/]+)/(?P<name>.+)"), "xml"),
]
_OBJECT_KINDS = {"GET": "stat", "DELETE": "delete", "PATCH": "patch", "PUT": "patch"}
_XML_KINDS = {"GET": "media", "HEAD": "stat", "DELETE": "delete", "PUT": "upload"}
_METHODS = {
    "list": {"GET"},
    "bucket": {"GET"},
    "upload": {"POST", "PUT"},
    "resumable": {"POST", "PUT", "DELETE"},
}


@dataclass
class Request:
    """One request; faults are matched against these fields."""

    method: str
    path: str
    kind: str
    bucket: str
    name: str
    query: dict[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    xml: bool = False
    #: Seconds of the monotonic clock, which all processes share; None: it is under way.
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")

    @property
    def generation(self) -> int | None:
        return _number(self.query.get("generation"))

    @property
    def conditions(self) -> Conditions:
        found = [self.query.get(key) for key in _CONDITIONS]
        if self.xml:
            found = [self.headers.get(key) for key in _XML_CONDITIONS]
        return Conditions(*(_number(each) for each in found))

    @property
    def base(self) -> str:
        return f"http://{self.headers.get('Host', 'localhost')}"


_CONDITIONS = (
    "ifGenerationMatch",
    "ifGenerationNotMatch",
    "ifMetagenerationMatch",
    "ifMetagenerationNotMatch",
)
_XML_CONDITIONS = ("x-goog-if-generation-match", "", "x-goog-if-metageneration-match", "")


def parse(method: str, target: str, headers: Mapping[str, str]) -> Request:
    """Understand a request line. A request for something that the fake does not have is of kind `unknown`."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for pattern, what in _ROUTES:
        if found := pattern.fullmatch(parts.path):
            named = found.groupdict()
            kind = _kind(method, what, named["way"] or "", query)
            name = unquote(named.get("name") or query.get("name", ""))
            request = Request(method, target, kind, unquote(named["bucket"]), name, query, headers)
            request.xml = what == "xml"
            return request
    return Request(method, target, "unknown", "", "", query, headers)


def _kind(method: str, what: str, way: str, query: dict[str, str]) -> str:
    if what == "xml":
        return _XML_KINDS.get(method, "unknown")
    if what == "object":
        media = method == "GET" and (way == "/download" or query.get("alt") == "media")
        return "media" if media else _OBJECT_KINDS.get(method, "unknown")
    if what == "upload" and query.get("uploadType") == "resumable":
        what = "resumable"
    return what if method in _METHODS[what] else "unknown"


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise Refusal(400, f"Invalid number: {text}") from None

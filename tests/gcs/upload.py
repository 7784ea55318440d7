"""Uploads: one request with metadata and data (multipart), data alone, and resumable sessions."""

from __future__ import annotations

import email
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tests.gcs.counters import Counters, Limiter
from tests.gcs.request import Request
from tests.gcs.store import Conditions, Refusal, Store, Stored, check_sums

#: What Cloud Storage keeps of an unfinished upload is a multiple of this.
GRAIN = 256 * 1024


class Dropped(Exception):
    """The connection ends here, without an answer, after what was sent so far; or `abrupt`, with a reset."""

    def __init__(self, *, abrupt: bool = False) -> None:
        super().__init__()
        self.abrupt = abrupt


class Body:
    """The body of a request, read piece by piece as the speed limit lets it in."""

    def __init__(self, stream: BinaryIO, length: int | None, limiter: Limiter, counters: Counters) -> None:
        self._stream, self._limiter, self._counters = stream, limiter, counters
        self._length = length
        self._left = length or 0
        self._whole = False
        self._head = b""
        self.cut_at: Callable[[int], int] | None = None

    @property
    def length(self) -> int | None:
        """How many bytes were announced; None for a chunked body."""
        return self._length

    def pieces(self) -> Iterator[bytes]:
        """The bytes. Raises `Dropped` where a fault cuts, and when the client goes away."""
        allowed = self.cut_at(self._length or 0) if self.cut_at else None
        for piece in self._plain() if self._length is not None else self._chunked():
            if allowed is not None and len(piece) >= allowed:
                yield piece[:allowed]
                raise Dropped
            allowed = allowed if allowed is None else allowed - len(piece)
            yield piece
        self._whole = True

    def head(self) -> bytes:
        """The first bytes, which will be read again."""
        self._head = self._take(min(self._left, 64 * 1024))
        self._left -= len(self._head)
        return self._head

    def read(self) -> bytes:
        return b"".join(self.pieces())

    def drain(self) -> None:
        """Read what nobody asked for, so that the connection can be used again."""
        if not self._whole:
            self.cut_at = None
            for _ in self.pieces():
                pass

    def came(self, amount: int) -> None:
        """Count bytes of an object."""
        self._counters.add_in(amount)

    def _take(self, amount: int) -> bytes:
        piece = self._stream.read(amount)
        if len(piece) < amount:
            raise Dropped
        self._limiter.take(amount)
        return piece

    def _plain(self) -> Iterator[bytes]:
        if self._head:
            head, self._head = self._head, b""
            yield head
        while self._left:
            piece = self._take(min(self._left, self._limiter.piece))
            self._left -= len(piece)
            yield piece

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self._stream.readline().split(b";")[0] or b"0", 16):
            yield self._take(size)
            self._stream.readline()
        self._stream.readline()


@dataclass
class Session:
    """A resumable upload. `result` is set when it is complete."""

    bucket: str
    name: str
    fields: dict[str, Any]
    conditions: Conditions
    data: bytearray = field(default_factory=bytearray)
    result: Stored | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, body: Body, skip: int) -> None:
        """Append what comes; of a connection that breaks, whole grains are kept."""
        start = len(self.data)
        try:
            for piece in body.pieces():
                rest = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                self.data += rest
        except Dropped:
            self.trim()
            raise
        finally:
            body.came(len(self.data) - start)

    def trim(self) -> None:
        del self.data[len(self.data) // GRAIN * GRAIN :]


class Uploads:
    """Everything that stores objects over HTTP."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions: dict[str, Session] = {}

    def simple(self, request: Request, body: Body) -> Stored:
        """One request: `multipart`, `media`, or PUT /bucket/object."""
        if request.query.get("uploadType") == "multipart":
            fields, data = parse_multipart(request.headers.get("Content-Type", ""), body.read())
        else:
            fields, data = _fields_of_headers(request), body.read()
        body.came(len(data))
        check_sums(data, _sums(fields, request))
        name = request.name or str(fields.get("name", ""))
        return self._store.put(request.bucket, name, data, request.conditions, **_meta(fields))

    def start(self, request: Request, body: Body) -> str:
        """Begin a resumable upload; its address. Preconditions are looked at now and again at the end."""
        fields = json.loads(body.read() or b"{}")
        fields.setdefault("contentType", request.headers.get("x-upload-content-type", ""))
        name = request.name or str(fields.get("name", ""))
        live = self._store.bucket(request.bucket).live.get(name)
        request.conditions.check(live, reading=False)
        key = secrets.token_hex(16)
        self._sessions[key] = Session(request.bucket, name, fields, request.conditions)
        return f"{request.base}{request.path}&upload_id={key}"

    def resume(self, request: Request, body: Body) -> Stored:
        """One PUT to a session: a chunk, the last chunk, or the question how much is stored. 308 until complete."""
        session = self._session(request)
        with session.lock:
            if session.result is None:
                first, total = _content_range(request, body)
                self._receive(session, body, first)
                if total is None or len(session.data) < total:
                    session.trim()
                    raise _incomplete(session)
                session.result = self._finish(session, request, total)
            return session.result

    def cancel(self, request: Request) -> None:
        """Forget a session: Cloud Storage answers 499."""
        self._session(request)
        del self._sessions[request.query["upload_id"]]
        raise Refusal(499, "Client Closed Request")

    def named(self, request: Request, body: Body) -> str:
        """The object that an upload is about: of its session, of the query, or of the metadata in its body."""
        if session := self._sessions.get(request.query.get("upload_id", "")):
            return session.name
        if request.name or "upload_id" in request.query or request.query.get("uploadType") == "media":
            return request.name
        fields = re.search(rb"\{.*", body.head(), re.DOTALL)
        try:
            return (
                str(json.JSONDecoder().raw_decode(fields[0].decode(errors="replace"))[0]["name"])
                if fields
                else ""
            )
        except (ValueError, KeyError):
            return ""

    def _session(self, request: Request) -> Session:
        if (session := self._sessions.get(request.query["upload_id"])) is None:
            raise Refusal(404, "No such upload.")
        return session

    def _receive(self, session: Session, body: Body, first: int | None) -> None:
        if first is None:
            return
        if first > len(session.data):
            raise Refusal(400, f"Chunk begins at {first}, but only {len(session.data)} bytes are stored.")
        session.receive(body, skip=len(session.data) - first)

    def _finish(self, session: Session, request: Request, total: int) -> Stored:
        if len(session.data) != total:
            raise Refusal(400, f"{len(session.data)} bytes came where {total} were announced.")
        data = bytes(session.data)
        session.data = bytearray()
        check_sums(data, _sums(session.fields, request))
        meta = _meta(session.fields)
        return self._store.put(session.bucket, session.name, data, session.conditions, **meta)


def parse_multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The two parts of a multipart/related upload: metadata as JSON, and data."""
    found = re.search(r'boundary="?([^";]+)', content_type)
    if found is None:
        raise Refusal(400, "No boundary in the content type.")
    mark = b"--" + found[1].strip("'").encode()
    meta_at = body.find(b"\r\n\r\n", body.find(mark)) + 4
    meta_end = body.find(b"\r\n" + mark, meta_at)
    head_at = meta_end + len(mark) + 4
    data_at = body.find(b"\r\n\r\n", head_at - 2) + 4  # the part may have no headers
    data_end = body.rfind(b"\r\n" + mark + b"--")
    if min(meta_end, data_end) < 0 or data_at < head_at:
        raise Refusal(400, "Malformed multipart body.")
    fields = json.loads(body[meta_at:meta_end])
    inner = email.message_from_bytes(body[head_at:data_at]).get("Content-Type", "")
    fields.setdefault("contentType", inner)
    return fields, body[data_at:data_end]


def _content_range(request: Request, body: Body) -> tuple[int | None, int | None]:
    """First byte (None when no data comes) and total size (None when not said)."""
    text = request.headers.get("Content-Range")
    if text is None:
        return 0, body.length
    found = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(?:\*|(\d+))", text)
    if found is None:
        raise Refusal(400, f"Invalid Content-Range: {text}")
    return (int(found[1]) if found[1] else None), (int(found[2]) if found[2] else None)


def _incomplete(session: Session) -> Refusal:
    stored = len(session.data)
    return Refusal(308, "Resume Incomplete", {"Range": f"bytes=0-{stored - 1}"} if stored else {})


def _sums(fields: dict[str, Any], request: Request) -> dict[str, str]:
    wanted = {}
    for pair in request.headers.get("x-goog-hash", "").split(","):
        kind, _, value = pair.strip().partition("=")
        wanted[kind] = value
    stated = {"crc32c": fields.get("crc32c"), "md5": fields.get("md5Hash")}
    return wanted | {kind: value for kind, value in stated.items() if value}


def _fields_of_headers(request: Request) -> dict[str, Any]:
    own = {k.lower()[12:]: v for k, v in request.headers.items() if k.lower().startswith("x-goog-meta-")}
    kind, encoding = request.headers.get("Content-Type", ""), request.headers.get("Content-Encoding", "")
    return {"contentType": kind, "contentEncoding": encoding, "metadata": own}


def _meta(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "content_type": fields.get("contentType") or "application/octet-stream",
        "content_encoding": fields.get("contentEncoding") or "",
        "metadata": dict(fields.get("metadata") or {}),
    }

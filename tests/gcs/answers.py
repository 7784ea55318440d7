"""Answers of the fake: object resources, media with ranges and checksums, listings, errors."""

from __future__ import annotations

import base64
import itertools
import json
import re
import zlib
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from tests.gcs.request import Request
from tests.gcs.store import Refusal, Stored


@dataclass
class Answer:
    """One answer; `media` says that the body is object data, `chunked` that its length is not announced."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    media: bool = False
    chunked: bool = False


def of_json(value: Any, headers: dict[str, str] | None = None, status: int = 200) -> Answer:
    body = json.dumps(value).encode()
    return Answer(status, {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}, body)


def of_refusal(refusal: Refusal) -> Answer:
    if refusal.status in (304, 308):
        return Answer(refusal.status, refusal.headers)
    reason = {"message": refusal.message, "domain": "global", "reason": "fake"}
    error = {"code": refusal.status, "message": refusal.message, "errors": [reason]}
    return of_json({"error": error}, refusal.headers, refusal.status)


def resource(stored: Stored, base: str, leave_out: set[str]) -> dict[str, Any]:
    """The object as the JSON interface describes it, without what the faults in `leave_out` hide."""
    path = f"/storage/v1/b/{quote(stored.bucket, safe='')}/o/{quote(stored.name, safe='')}"
    described = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": base + path,
        "mediaLink": f"{base}/download{path}?generation={stored.generation}&alt=media",
        "bucket": stored.bucket,
        "name": stored.name,
        "generation": str(stored.generation),
        "metageneration": str(stored.metageneration),
        "contentType": stored.content_type,
        "contentEncoding": stored.content_encoding,
        "storageClass": "STANDARD",
        "size": str(len(stored.data)),
        "crc32c": stored.crc32c_text,
        "etag": stored.etag,
        "timeCreated": stored.created,
        "updated": stored.updated,
        "timeDeleted": stored.deleted,
        "metadata": stored.metadata,
    }
    hidden = {"crc32c"} if "no_hash" in leave_out else set()
    if "no_generation" in leave_out:
        hidden |= {"generation", "id", "mediaLink"}
    return {key: value for key, value in described.items() if value and key not in hidden}


def headers_of(stored: Stored, leave_out: set[str]) -> dict[str, str]:
    """What every answer with media, 206 included, says of its object."""
    headers = {
        "Content-Type": stored.content_type,
        "ETag": f'"{stored.etag}"',
        "Last-Modified": formatdate(stored.generation / 1e6, usegmt=True),
        "Accept-Ranges": "bytes",
        "x-goog-generation": str(stored.generation),
        "x-goog-metageneration": str(stored.metageneration),
        "x-goog-hash": f"crc32c={stored.crc32c_text}",
        "x-goog-stored-content-encoding": stored.content_encoding or "identity",
        "x-goog-stored-content-length": str(len(stored.data)),
    }
    headers |= {f"x-goog-meta-{key}": value for key, value in stored.metadata.items()}
    if stored.content_encoding:
        headers["Content-Encoding"] = stored.content_encoding
    for fault, header in (("no_hash", "x-goog-hash"), ("no_generation", "x-goog-generation")):
        if fault in leave_out:
            del headers[header]
    return headers


def of_media(stored: Stored, request: Request, leave_out: set[str]) -> Answer:
    """The bytes, all or a range. A gzip object is decompressed for whoever does not accept gzip, ranges ignored."""
    headers = headers_of(stored, leave_out)
    if stored.content_encoding == "gzip" and "gzip" not in request.headers.get("Accept-Encoding", ""):
        del headers["Content-Encoding"], headers["Accept-Ranges"]
        headers["Warning"] = "214 UploadServer gunzipped"
        return Answer(200, headers, zlib.decompress(stored.data, wbits=31), media=True, chunked=True)
    size = len(stored.data)
    wanted = span(request.range, size)
    if wanted is None:
        return Answer(200, headers, memoryview(stored.data), media=True)
    start, stop = wanted
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, headers, memoryview(stored.data)[start:stop], media=True)


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and stop of a Range header; None when there is none that counts; 416 when it lies past the end."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if first and last and int(last) < start:
        return None
    if start >= size:
        unsatisfiable = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "The requested range cannot be satisfied.", unsatisfiable)
    return start, stop


def listing(objects: list[Stored], request: Request) -> Answer:
    """One page in the order of names: `prefix`, `delimiter`, `startOffset`, `endOffset`, `maxResults`, `pageToken`."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end = query.get("startOffset", ""), query.get("endOffset")
    after = base64.urlsafe_b64decode(query["pageToken"]).decode() if query.get("pageToken") else ""

    def place(stored: Stored) -> tuple[str, bool]:
        """The name, or the prefix under which this name is folded."""
        head, found, _ = stored.name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        return (prefix + head + delimiter, True) if found else (stored.name, False)

    inside = [
        s for s in objects if s.name.startswith(prefix) and s.name >= start and (end is None or s.name < end)
    ]
    rows = [(*key, list(group)) for key, group in itertools.groupby(inside, key=place) if key[0] > after]
    limit = min(1000, int(query.get("maxResults", 1000)))
    page: dict[str, Any] = {"kind": "storage#objects"}
    shown = rows[:limit]
    flat = [stored for _, folded, group in shown if not folded for stored in group]
    page["items"] = [resource(stored, request.base, set()) for stored in flat]
    page["prefixes"] = [name for name, folded, _ in shown if folded]
    if len(rows) > limit:
        page["nextPageToken"] = base64.urlsafe_b64encode(shown[-1][0].encode()).decode()
    return of_json(page)

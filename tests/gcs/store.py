"""Buckets and objects of the fake Cloud Storage: generations, preconditions, versions, listing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import google_crc32c


class Refusal(Exception):
    """An answer other than success: HTTP status and the message in its body."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


@dataclass(frozen=True)
class Stored:
    """One generation of one object. Like composite objects of Cloud Storage it has a crc32c and no md5."""

    bucket: str
    name: str
    data: bytes = field(repr=False)
    generation: int
    crc32c: int
    content_type: str = "application/octet-stream"
    content_encoding: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    metageneration: int = 1
    created: str = ""
    updated: str = ""
    deleted: str = ""

    @property
    def crc32c_text(self) -> str:
        return base64.b64encode(self.crc32c.to_bytes(4, "big")).decode()

    @property
    def etag(self) -> str:
        """Opaque, and other than the content's checksum, as in Cloud Storage."""
        return base64.b64encode(b"%x/%x" % (self.generation, self.metageneration)).decode()


@dataclass(frozen=True)
class Conditions:
    """The four preconditions of the JSON interface; generation 0 means that there must be no such object."""

    match: int | None = None
    not_match: int | None = None
    meta_match: int | None = None
    meta_not_match: int | None = None

    def check(self, current: Stored | None, *, reading: bool) -> None:
        """Raise 412 when a condition fails, or 304 when a reader already has what it asks for."""
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if self.match not in (None, generation) or self.meta_match not in (None, metageneration):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")
        if self.not_match == generation or (current and self.meta_not_match == metageneration):
            raise Refusal(
                304 if reading else 412, "At least one of the pre-conditions you specified did not hold."
            )


@dataclass
class Bucket:
    """The live objects by name, and with versioning those that were overwritten or deleted."""

    name: str
    versioning: bool = False
    live: dict[str, Stored] = field(default_factory=dict)
    archived: list[Stored] = field(default_factory=list)

    def retire(self, stored: Stored) -> None:
        if self.versioning:
            self.archived.append(dataclasses.replace(stored, deleted=now_text()))

    def of_generation(self, name: str, generation: int) -> Stored | None:
        live = self.live.get(name)
        everything = [*([live] if live else []), *self.archived]
        return next((s for s in everything if s.name == name and s.generation == generation), None)

    def everything(self, versions: bool) -> list[Stored]:
        all_of_them = [*self.live.values(), *(self.archived if versions else [])]
        return sorted(all_of_them, key=lambda stored: (stored.name.encode(), stored.generation))


class Store:
    """All buckets. Every method is one step under one lock: strongly consistent, as Cloud Storage is."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._buckets: dict[str, Bucket] = {}
        self._last = 0

    def create(self, bucket: str, *, versioning: bool = False) -> None:
        with self._lock:
            self._buckets.setdefault(bucket, Bucket(bucket)).versioning = versioning

    def bucket(self, bucket: str) -> Bucket:
        with self._lock:
            if bucket not in self._buckets:
                raise Refusal(404, "The specified bucket does not exist.")
            return self._buckets[bucket]

    def get(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> Stored:
        with self._lock:
            home = self.bucket(bucket)
            stored = home.live.get(name) if generation is None else home.of_generation(name, generation)
            if stored is None:
                raise Refusal(404, f"No such object: {bucket}/{name}")
            conditions.check(stored, reading=True)
            return stored

    def put(self, bucket: str, name: str, data: bytes, conditions: Conditions, **meta) -> Stored:
        crc32c = google_crc32c.value(data)
        with self._lock:
            home = self.bucket(bucket)
            conditions.check(home.live.get(name), reading=False)
            if old := home.live.get(name):
                home.retire(old)
            now = now_text()
            stored = Stored(bucket, name, data, self._next(), crc32c, created=now, updated=now, **meta)
            home.live[name] = stored
            return stored

    def patch(self, bucket: str, name: str, conditions: Conditions, **changes) -> Stored:
        with self._lock:
            old = self.get(bucket, name, None, Conditions())
            conditions.check(old, reading=False)
            changes |= {"metageneration": old.metageneration + 1, "updated": now_text()}
            self.bucket(bucket).live[name] = new = dataclasses.replace(old, **changes)
            return new

    def delete(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> None:
        with self._lock:
            home = self.bucket(bucket)
            stored = self.get(bucket, name, generation, Conditions())
            conditions.check(stored, reading=False)
            if home.live.get(name) is stored:
                del home.live[name]
                if generation is None:
                    home.retire(stored)
            else:
                home.archived.remove(stored)

    def names(self, bucket: str, *, versions: bool = False) -> list[Stored]:
        with self._lock:
            return self.bucket(bucket).everything(versions)

    def _next(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_sums(data: bytes, wanted: dict[str, str]) -> None:
    """Compare with `crc32c` and `md5` (base64) as the uploader stated them; 400 when one of them differs."""
    crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    if wanted.get("crc32c", crc32c) != crc32c:
        raise Refusal(
            400, f'Provided CRC32C "{wanted["crc32c"]}" doesn\'t match calculated CRC32C "{crc32c}".'
        )
    if "md5" in wanted:
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        if wanted["md5"] != md5:
            raise Refusal(
                400, f'Provided MD5 hash "{wanted["md5"]}" doesn\'t match calculated MD5 hash "{md5}".'
            )

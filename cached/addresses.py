"""Addresses of objects in Cloud Storage: `gs://BUCKET/OBJECT` and `gs://BUCKET/OBJECT#GENERATION`.

The rules are those of Cloud Storage ("About Cloud Storage buckets" and "About Cloud Storage objects"): bucket names
are 3 to 63 characters (222 with dots) of lower-case letters, digits, dashes, underscores and dots; object names are
1 to 1,024 bytes of UTF-8 without carriage return or line feed, and neither `.` nor `..`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from cached.errors import UsageError

SCHEME: Final = "gs://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9_.-]{1,220}[a-z0-9]", re.ASCII)
_GENERATION = re.compile(r"(.+)#([1-9]\d{0,18})", re.DOTALL | re.ASCII)
#: Longest object name, in bytes of UTF-8.
MAX_OBJECT_NAME: Final = 1024


class Address(msgspec.Struct, frozen=True, order=True):
    """Where an object lies; with a generation, which of its versions."""

    bucket: str
    name: str
    generation: int | None = None

    def __str__(self) -> str:
        pinned = "" if self.generation is None else f"#{self.generation}"
        return f"{SCHEME}{self.bucket}/{self.name}{pinned}"

    def pinned(self, generation: int) -> Address:
        """Return the address of one generation of this object."""
        return Address(self.bucket, self.name, generation)


class Prefix(msgspec.Struct, frozen=True, order=True):
    """A bucket, and how the names of the objects meant begin; an empty `name` means all of them."""

    bucket: str
    name: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.name}"

    def covers(self, bucket: str, name: str) -> bool:
        """Say whether an object is below it, as a directory or a plain beginning of its name."""
        return bucket == self.bucket and name.startswith(self.name)


def is_address(text: str) -> bool:
    """Say whether somebody means an object in Cloud Storage; it may still be a bad address."""
    return text.startswith(SCHEME)


@lru_cache(maxsize=1024)
def parse(text: str) -> Address:
    """Read `gs://BUCKET/OBJECT[#GENERATION]`. Raises `UsageError`.

    Only digits after the last `#` are a generation: an object may have a `#` in its name.
    """
    bucket, name = _split(text)
    found = _GENERATION.fullmatch(name)
    generation = None
    if found is not None:
        name, generation = found[1], int(found[2])
    return Address(bucket, object_name(name, text), generation)


def parse_prefix(text: str) -> Prefix:
    """Read `gs://BUCKET` or `gs://BUCKET/PREFIX`. Raises `UsageError`."""
    bucket, name = _split(text)
    return Prefix(bucket, object_name(name, text) if name else "")


def bucket_name(name: str, text: str = "") -> str:
    """Return a bucket's name if it is one; `text` is what was written. Raises `UsageError`."""
    if not _BUCKET.fullmatch(name) or ".." in name or max(map(len, name.split("."))) > 63:
        raise UsageError(
            f"{text or name!r} names no bucket: {name!r}",
            hint="3 to 63 lower-case letters, digits, dashes, underscores",
        )
    return name


def object_name(name: str, text: str = "") -> str:
    """Return an object's name if it is one; `text` is what was written. Raises `UsageError`."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{text or name!r}: the object's name is not UTF-8") from None
    if not 0 < length <= MAX_OBJECT_NAME or "\r" in name or "\n" in name or name in (".", ".."):
        hint = "1 to 1024 bytes, without line ends, not . or .." if name else "write gs://BUCKET/OBJECT"
        raise UsageError(f"{text or name!r} names no object", hint=hint)
    return name


def _split(text: str) -> tuple[str, str]:
    if not is_address(text):
        raise UsageError(f"{text!r} is no address in Cloud Storage", hint="write gs://BUCKET/OBJECT")
    bucket, _, name = text.removeprefix(SCHEME).partition("/")
    return bucket_name(bucket, text), name

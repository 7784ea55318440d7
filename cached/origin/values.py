"""What the origin says about an object, as whom it is asked, and what was asked of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from cached.addresses import Address

#: Ask with the node's own account.
NODE_ACCOUNT: Final = None
#: Requests in a row that fail before Cloud Storage counts as out of reach, and seconds for which that is said.
SILENCES: Final = 3
LATELY: Final = 300.0
#: Ask without any credentials: objects that everybody may read.
ANONYMOUS: Final = ""


class Pinned(msgspec.Struct, frozen=True):
    """One generation of one object: what identifies its bytes, and what is said about them.

    `crc32c` is the number itself (Castagnoli, RFC 3720), not its base64; `size` counts the stored bytes, before
    any decoding that `content_encoding` may ask for; `updated` is RFC 3339 as the service wrote it.
    """

    bucket: str
    name: str
    generation: int
    size: int
    crc32c: int
    metageneration: int = 1
    content_type: str = ""
    content_encoding: str = ""
    updated: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def address(self) -> Address:
        """Where it lies, with its generation."""
        return Address(self.bucket, self.name, self.generation)


class Page(msgspec.Struct, frozen=True):
    """Some of a listing, in order of their names: objects, and with a delimiter how the names of others begin."""

    items: list[Pinned]
    prefixes: tuple[str, ...] = ()


class OriginStats:
    """Requests by kind, bytes in and out, retries by cause; counted from many threads.

    Kinds are `stat list media upload resumable delete`; causes `http_503` and the like, and
    `reset cut stall network crc32c lost_reply range session credentials`.
    `bytes_in` are bytes of objects received, `bytes_out` bytes of objects sent, repeats included.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        #: Requests in a row that were not answered: how many, since when, until when, and why the last was not.
        self._silent: tuple[int, float, float, str] = (0, 0.0, 0.0, "")
        self.requests: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.bytes_in = 0
        self.bytes_out = 0

    def asked(self, kind: str) -> None:
        """Count one request."""
        with self._lock:
            self.requests[kind] += 1

    def retried(self, cause: str) -> None:
        """Count one request that has to be repeated."""
        with self._lock:
            self.retries[cause] += 1

    def silent(self, why: str) -> None:
        """Note that a request was not answered, or with the advice to come again later."""
        now = self._clock()
        with self._lock:
            count, first, _, _ = self._silent
            self._silent = (count + 1, first if count else now, now, why)

    def answered(self) -> None:
        """Note that a request was answered, if only with a refusal."""
        if self._silent[0]:
            with self._lock:
                self._silent = (0, 0.0, 0.0, "")

    @property
    def trouble(self) -> str:
        """In words that Cloud Storage cannot be reached, by what was asked lately; empty: it can, or nobody knows."""
        count, first, last, why = self._silent
        now = self._clock()
        if count < SILENCES or now - last > LATELY:
            return ""
        return (
            f"Cloud Storage cannot be reached: {count} requests in a row failed, the first {now - first:.0f} s ago, "
            f"the last {now - last:.0f} s ago ({why}); is the network up, and the endpoint right?"
        )

    def moved(self, *, received: int = 0, sent: int = 0) -> None:
        """Count bytes of objects."""
        with self._lock:
            self.bytes_in += received
            self.bytes_out += sent

    def snapshot(self) -> dict[str, int]:
        """Return all counts by stable names: `origin.requests.KIND`, `origin.retries.CAUSE`, `origin.bytes_in`."""
        with self._lock:
            counts = {f"origin.requests.{kind}": count for kind, count in self.requests.items()}
            counts |= {f"origin.retries.{cause}": count for cause, count in self.retries.items()}
            return counts | {"origin.bytes_in": self.bytes_in, "origin.bytes_out": self.bytes_out}

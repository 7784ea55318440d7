"""Single requests to Cloud Storage with its own client: blocking, without repeats, one fresh `Blob` each.

A `Blob` that is used twice takes over what an answer says of its generation, and is no longer pinned.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from cached.addresses import Address
from cached.errors import IntegrityFailed
from cached.origin.failures import Failed, answered
from cached.origin.lanes import SLOWEST
from cached.origin.values import Page, Pinned

if TYPE_CHECKING:
    import requests
    from google.cloud.storage import Blob, Client

#: Objects in one page of a listing.
PAGE: Final = 1000
#: Bytes taken from a connection at once.
_PIECE: Final = 256 * 1024


def stat(client: Client, address: Address, timeout: float) -> Pinned:
    """Ask what an object is."""
    blob = _blob(client, address)
    blob.reload(retry=None, timeout=timeout)
    return pinned_of(blob)


def page(
    client: Client, bucket: str, prefix: str, delimiter: str, after: str | None, timeout: float
) -> tuple[Page, str | None]:
    """Ask for one page of a listing; return it, and the token of the next one."""
    listing = client.list_blobs(
        bucket,
        prefix=prefix or None,
        delimiter=delimiter or None,
        page_token=after,
        page_size=PAGE,
        retry=None,
        timeout=timeout,
    )
    found = next(listing.pages)
    return Page([pinned_of(blob) for blob in found], found.prefixes), listing.next_page_token


def delete(client: Client, address: Address, timeout: float) -> None:
    """Delete an object."""
    _blob(client, address).delete(retry=None, timeout=timeout)


class Part:
    """A range of an object while it comes; an interrupted one is gone on with from its last byte.

    It uses the client's connection and credentials, but not its download methods: those read 8 KiB at a time, which
    costs more than all the rest, keep the headers to themselves, and do not check which range has come.
    """

    def __init__(self, pinned: Pinned, start: int, stop: int) -> None:
        self.pinned, self.start, self.stop = pinned, start, stop
        self.filled = 0
        #: Set from outside when nobody waits for it any more.
        self.abandoned = False
        self._pieces: list[bytes] = []
        #: Whose turn it is: an attempt that was given up may still run in its thread beside the next one.
        self._turn = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many bytes are wanted."""
        return self.stop - self.start

    def take(self) -> list[bytes]:
        """Return the bytes, in pieces, and forget them."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
            return pieces

    def read(self, client: Client, timeout: float) -> None:
        """Ask for what is missing. The stored bytes are wanted, so that sizes and checksums of gzip objects hold."""
        until = time.monotonic() + timeout + self.size / SLOWEST
        turn, first = self._begin()
        headers = {"Range": f"bytes={first}-{self.stop - 1}", "Accept-Encoding": "gzip"}
        with client._http.request(
            "GET", self._url(client), headers=headers, stream=True, timeout=timeout
        ) as response:
            self._check(response, first)
            for piece in response.raw.stream(_PIECE, decode_content=False):
                self._add(piece, turn, until)
        if self.filled < self.size:
            raise Failed("cut", "the answer ended early", transient=True)

    def _begin(self) -> tuple[int, int]:
        """Take the turn from the attempt before; return its number, and the first byte that is missing."""
        with self._lock:
            self._turn += 1
            return self._turn, self.start + self.filled

    def _url(self, client: Client) -> str:
        place = f"b/{quote(self.pinned.bucket, safe='')}/o/{quote(self.pinned.name, safe='')}"
        return f"{home(client)}/download/storage/v1/{place}?alt=media&generation={self.pinned.generation}"

    def _check(self, response: requests.Response, first: int) -> None:
        """Refuse what is not this range of this generation; an answer to somebody else is never mixed in."""
        if response.status_code not in (200, 206):
            raise answered(response)
        generation = response.headers.get("x-goog-generation", str(self.pinned.generation))
        if generation != str(self.pinned.generation):
            raise Failed("replaced", f"the answer is of generation {generation}", status=412)
        wanted = f"bytes {first}-{self.stop - 1}/{self.pinned.size}"
        whole = response.status_code == 200 and first == 0 and self.stop == self.pinned.size
        if not whole and response.headers.get("Content-Range") != wanted:
            raise Failed("range", "another range came than was asked for", transient=True)

    def _add(self, piece: bytes, turn: int, until: float) -> None:
        with self._lock:
            if self.abandoned or turn != self._turn:
                raise Failed("abandoned", "nobody wants it any more", transient=True)
            if self.filled + len(piece) > self.size:
                raise Failed("range", "more bytes came than were asked for", transient=True)
            if time.monotonic() > until:
                raise Failed("stall", "the answer comes too slowly", transient=True)
            self._pieces.append(piece)
            self.filled += len(piece)


def upload(
    client: Client,
    address: Address,
    data: bytes,
    *,
    if_generation: int | None,
    content_type: str,
    metadata: Mapping[str, str],
    timeout: float,
) -> Pinned | None:
    """Store an object in one request; the service compares the crc32c. None: it did not say which generation it is."""
    import io

    blob = _blob(client, address)
    blob.metadata = dict(metadata)
    blob.upload_from_file(
        io.BytesIO(data),
        size=len(data),
        content_type=content_type or None,
        if_generation_match=if_generation,
        checksum="crc32c",
        retry=None,
        timeout=timeout,
    )
    return pinned_of(blob) if blob.generation else None


def open_session(
    client: Client,
    address: Address,
    size: int,
    *,
    if_generation: int | None,
    content_type: str,
    metadata: Mapping[str, str],
    timeout: float,
) -> str:
    """Begin a resumable upload; return its secret address."""
    blob = _blob(client, address)
    blob.metadata = dict(metadata)
    return str(
        blob.create_resumable_upload_session(
            content_type=content_type or None,
            size=size,
            if_generation_match=if_generation,
            checksum=None,
            retry=None,
            timeout=timeout,
        )
    )


def send_chunk(
    client: Client, session: str, data: bytes, start: int, size: int, crc32c: int, timeout: float
) -> requests.Response:
    """Send some bytes of a resumable upload; with the last ones goes the checksum of all of them."""
    headers = {"Content-Range": f"bytes {start}-{start + len(data) - 1}/{size}"}
    if start + len(data) == size:
        headers["X-Goog-Hash"] = f"crc32c={encoded(crc32c)}"
    return _put(client, session, data, headers, timeout)


def ask_session(client: Client, session: str, size: int, timeout: float) -> requests.Response:
    """Ask how much of a resumable upload is stored."""
    return _put(client, session, b"", {"Content-Range": f"bytes */{size}"}, timeout)


def _put(
    client: Client, session: str, data: bytes, headers: dict[str, str], timeout: float
) -> requests.Response:
    """Speak to a session; the library can begin one, but not go on with it after a restart."""
    response: requests.Response = client._http.request(
        "PUT", session, data=data, headers=headers, timeout=timeout, allow_redirects=False
    )
    if response.status_code not in (200, 201, 308):
        raise answered(response)
    return response


def home(client: Client) -> str:
    """Return the URL of the service, to which alone a client's credentials may go."""
    return str(client._connection.API_BASE_URL)


def pinned_of(blob: Blob) -> Pinned:
    """Return what a loaded blob says. Raises `IntegrityFailed` for one without crc32c, whose bytes nobody can check."""
    address = Address(blob.bucket.name, blob.name)
    return Pinned(
        bucket=address.bucket,
        name=address.name,
        generation=int(blob.generation or 0),
        size=int(blob.size or 0),
        crc32c=decoded(blob.crc32c, address),
        metageneration=int(blob.metageneration or 0),
        content_type=blob.content_type or "",
        content_encoding=blob.content_encoding or "",
        updated=blob.updated.isoformat().replace("+00:00", "Z") if blob.updated else "",
        metadata={str(key): str(value) for key, value in (blob.metadata or {}).items()},
    )


def pinned_of_resource(said: dict[str, Any]) -> Pinned | None:
    """Return what the JSON of an object says; None when it does not say which generation it is."""
    if not said.get("generation"):
        return None
    address = Address(said["bucket"], said["name"])
    return Pinned(
        bucket=address.bucket,
        name=address.name,
        generation=int(said["generation"]),
        size=int(said.get("size", 0)),
        crc32c=decoded(said.get("crc32c"), address),
        metageneration=int(said.get("metageneration", 0)),
        content_type=said.get("contentType", ""),
        content_encoding=said.get("contentEncoding", ""),
        updated=said.get("updated", ""),
        metadata=dict(said.get("metadata") or {}),
    )


def decoded(text: Any, address: Address) -> int:
    """Read a crc32c as the service writes it: base64 of four bytes, highest first."""
    try:
        raw = base64.b64decode(text or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raw = b""
    if len(raw) != 4:
        raise IntegrityFailed(
            f"{address}: Cloud Storage tells no crc32c of it",
            hint="objects under customer-supplied keys cannot be checked, and so not be cached",
        )
    return int.from_bytes(raw, "big")


def encoded(crc: int) -> str:
    """Write a crc32c as the service does."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _blob(client: Client, address: Address) -> Blob:
    return client.bucket(address.bucket).blob(address.name, generation=address.generation)

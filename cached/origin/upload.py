"""Writing objects: small ones in one request, large ones in a session that survives interruptions.

When an answer is lost, nobody knows whether the object was stored. So each upload leaves an id in the metadata, and
before it is repeated, or believed to have failed a precondition, what is there is read back.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from cached.addresses import Address
from cached.errors import CachedError, Forbidden, IntegrityFailed, NotFound, UsageError
from cached.origin import calls
from cached.origin.crc import crc32c as checksum
from cached.origin.failures import Failed
from cached.origin.lanes import Lanes
from cached.origin.origin import PERHAPS_STORED, UPLOAD_ID, Progress, Reading
from cached.origin.values import Pinned

if TYPE_CHECKING:
    import requests
    from google.cloud.storage import Client

#: Up to so many bytes go in one request.
SMALL: Final = 8 * 1024 * 1024
#: Bytes of one request of a session; a multiple of 256 KiB, as the service demands.
CHUNK: Final = 16 * 1024 * 1024


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be stored, where, on which condition and as whom."""

    fd: int
    size: int
    address: Address
    token: str | None
    crc32c: int
    if_generation: int | None
    content_type: str
    metadata: Mapping[str, str]
    #: Under which the object is known again.
    id: str
    #: Runs what reads from the descriptor, which blocks.
    reading: Reading

    def labelled(self) -> dict[str, str]:
        """Return the metadata with the id."""
        return {**self.metadata, UPLOAD_ID: self.id}

    def is_it(self, stored: Pinned) -> bool:
        """Say whether an object is what this upload has stored."""
        same = stored.size == self.size and stored.crc32c == self.crc32c
        return same and stored.metadata.get(UPLOAD_ID) == self.id


async def put(
    lanes: Lanes,
    upload: Upload,
    *,
    on_session: Callable[[str], None] | None,
    resume: str,
    progress: Progress | None = None,
) -> Pinned:
    """Store an object; what the service says to have stored is compared with what was meant."""
    if resume:
        session, _, own = resume.rpartition("#")
        if not session:
            raise UsageError("the upload to resume is none", hint="give what `on_session` was told")
        upload = msgspec.structs.replace(upload, id=own)
        stored = await _Session(lanes, upload, on_session, progress, session).run()
    elif upload.size > SMALL:
        stored = await _Session(lanes, upload, on_session, progress, "").run()
    else:
        stored = await _small(lanes, upload)
    if stored is None:  # the answer did not say: whatever is there now
        with _perhaps_stored(True):
            stored = await _stat(lanes, upload)
    if stored.size != upload.size or stored.crc32c != upload.crc32c:
        await _remove(lanes, upload, stored)
        with _perhaps_stored(True):
            raise IntegrityFailed(
                f"{upload.address}: Cloud Storage has stored other bytes; they were deleted again"
            )
    return stored


async def _small(lanes: Lanes, upload: Upload) -> Pinned | None:
    async with lanes.bulk(upload.token):
        data = await upload.reading(functools.partial(_read, upload, 0, upload.size))
        if checksum(data) != upload.crc32c:
            raise IntegrityFailed(
                f"{upload.address}: the bytes to store do not have the crc32c that was announced"
            )
        call = functools.partial(
            calls.upload,
            address=upload.address,
            data=data,
            if_generation=upload.if_generation,
            content_type=upload.content_type,
            metadata=upload.labelled(),
            timeout=lanes.timeout,
        )
        patience, repeated = lanes.patience(), False
        while True:
            lanes.stats.moved(sent=len(data))
            try:
                return await lanes.once("upload", call, token=upload.token, size=len(data))
            except Failed as error:
                failed = error
            if (repeated or failed.transient) and (mine := await _mine(lanes, upload, failed)):
                return mine
            with _perhaps_stored(repeated or failed.transient):
                await lanes.pause(failed, patience, upload.address)
            repeated = True


class _Session:
    """One resumable upload (Cloud Storage, "Resumable uploads"). `_offset` None: the service must be asked."""

    def __init__(
        self,
        lanes: Lanes,
        upload: Upload,
        on_session: Callable[[str], None] | None,
        progress: Progress | None,
        session: str,
    ) -> None:
        self._lanes = lanes
        self._upload = upload
        self._on_session = on_session
        self._progress = progress
        self._session = session
        self._offset: int | None = None
        self._fresh = not session
        #: Bytes were sent, perhaps the last ones.
        self._sent = bool(session)

    async def run(self) -> Pinned | None:
        """Send all bytes; return what the service says to have stored."""
        patience, before = self._lanes.patience(), 0
        while True:
            try:
                done, stored = await self._step()
                if done:
                    return stored
                continue
            except Failed as error:
                failed = self._judge(error)
            if failed.status == 412 and (mine := await _mine(self._lanes, self._upload, failed)):
                return mine
            offset = self._offset or 0
            with _perhaps_stored(self._sent):
                await self._lanes.pause(failed, patience, self._upload.address, moved=offset - before)
            before, self._offset = offset, None

    async def _step(self) -> tuple[bool, Pinned | None]:
        """Make one request: begin, ask how far it got, or send a chunk."""
        if not self._session:
            await self._begin()
        elif self._offset is None:
            call = functools.partial(calls.ask_session, size=self._upload.size)
            return self._outcome(await self._speak(call, 0))
        return await self._send(self._offset or 0)

    async def _begin(self) -> None:
        upload = self._upload
        call = functools.partial(
            calls.open_session,
            address=upload.address,
            size=upload.size,
            if_generation=upload.if_generation,
            content_type=upload.content_type,
            metadata=upload.labelled(),
            timeout=self._lanes.timeout,
        )
        self._session = await self._lanes.once("resumable", call, token=upload.token)
        self._offset, self._fresh = 0, True
        if self._on_session is not None:
            self._on_session(f"{self._session}#{upload.id}")

    async def _send(self, start: int) -> tuple[bool, Pinned | None]:
        upload = self._upload
        async with self._lanes.bulk(upload.token):
            data = await upload.reading(
                functools.partial(_read, upload, start, min(start + CHUNK, upload.size))
            )
            self._lanes.stats.moved(sent=len(data))
            self._sent = True
            call = functools.partial(
                calls.send_chunk, data=data, start=start, size=upload.size, crc32c=upload.crc32c
            )
            done, stored = self._outcome(await self._speak(call, len(data)))
        if not done and (self._offset or 0) <= start:
            raise Failed("cut", "the service kept nothing of what was sent", transient=True)
        return done, stored

    async def _speak(self, call: Callable[..., requests.Response], size: int) -> requests.Response:
        session, fresh, timeout = self._session, self._fresh, self._lanes.timeout

        def speak(client: Client) -> requests.Response:
            if not fresh and urlsplit(session)[:2] != urlsplit(calls.home(client))[:2]:
                raise UsageError("the upload to resume is one at another service")
            return call(client, session, timeout=timeout)

        return await self._lanes.once("resumable", speak, token=self._upload.token, size=size)

    def _outcome(self, response: requests.Response) -> tuple[bool, Pinned | None]:
        """Read an answer: 308 says how much is stored, 200 that all is."""
        if response.status_code == 308:
            found = re.fullmatch(r"bytes=0-(\d+)", response.headers.get("Range", ""))
            self._offset = int(found[1]) + 1 if found else 0
            if self._progress is not None:
                self._progress(self._offset)
            return False, None
        return True, calls.pinned_of_resource(msgspec.json.decode(response.content))

    def _judge(self, failed: Failed) -> Failed:
        """A session that is gone is begun anew."""
        if failed.status in (404, 410) and self._session:
            self._session, self._offset = "", None
            return Failed("session", "the upload's session is gone", transient=True)
        return failed


async def _mine(lanes: Lanes, upload: Upload, failed: Failed) -> Pinned | None:
    """Return the object that is there when this upload has stored it after all."""
    try:
        stored = await _stat(lanes, upload)
    except (NotFound, Forbidden, IntegrityFailed):
        return None
    if not upload.is_it(stored):
        return None
    lanes.stats.retried("lost_reply")
    return stored


async def _stat(lanes: Lanes, upload: Upload) -> Pinned:
    call = functools.partial(calls.stat, address=upload.address, timeout=lanes.timeout)
    return await lanes.ask("stat", call, upload.address, token=upload.token)


async def _remove(lanes: Lanes, upload: Upload, stored: Pinned) -> None:
    if upload.is_it(msgspec.structs.replace(stored, size=upload.size, crc32c=upload.crc32c)):
        call = functools.partial(calls.delete, address=stored.address, timeout=lanes.timeout)
        with contextlib.suppress(CachedError):
            await lanes.ask("delete", call, stored.address, token=upload.token)


@contextlib.contextmanager
def _perhaps_stored(possible: bool) -> Iterator[None]:
    """Let an error say that the object may be there all the same: the answer to an earlier request was lost."""
    try:
        yield
    except CachedError as error:
        if possible:
            error.details[PERHAPS_STORED] = True
        raise


def _read(upload: Upload, start: int, stop: int) -> bytes:
    """Read from the descriptor; raises `IntegrityFailed` when it ends too early."""
    pieces, at = [], start
    while at < stop and (piece := os.pread(upload.fd, stop - at, at)):
        pieces.append(piece)
        at += len(piece)
    if at < stop:
        raise IntegrityFailed(f"{upload.address}: the file to store ends at {at}, not at {upload.size}")
    return b"".join(pieces)

"""Google Cloud Storage through its own client library, which is blocking and runs in threads of this adapter."""

from __future__ import annotations

import functools
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from cached.addresses import Address, Prefix
from cached.errors import NotFound, OriginChanged
from cached.origin import calls, download, upload
from cached.origin.accounts import Accounts
from cached.origin.lanes import Lanes
from cached.origin.origin import PART, Progress, Reading
from cached.origin.retry import FIRST
from cached.origin.values import OriginStats, Page, Pinned

#: Seconds for each step of a connection.
TIMEOUT: Final = 30.0
#: Seconds during which a request is repeated without getting on.
PATIENCE: Final = 120.0


class Gcs:
    """`cached.origin.origin.Origin`, which documents the calls, as Google's JSON interface.

    `endpoint`: URL of the service, empty for Google's own or the environment's STORAGE_EMULATOR_HOST. `credentials`:
    file with the node's own account, None for what the environment provides. `threads`: requests at once, at most;
    memory is at most two times 16 MiB for each. `timeout` and `patience` are in seconds.
    """

    def __init__(
        self,
        *,
        threads: int = 16,
        endpoint: str = "",
        credentials: Path | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        first_wait: float = FIRST,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.stats = OriginStats()
        accounts = Accounts(endpoint=endpoint, credentials=credentials, threads=threads)
        self._lanes = Lanes(
            accounts,
            self.stats,
            threads=threads,
            timeout=timeout,
            patience=patience,
            first_wait=first_wait,
            dice=dice,
        )

    async def stat(self, address: Address, *, token: str | None) -> Pinned:
        """Return what is there now, or the generation that the address names."""
        call = functools.partial(calls.stat, address=address, timeout=self._lanes.timeout)
        return await self._lanes.ask("stat", call, address, token=token)

    async def pages(
        self, bucket: str, prefix: str, *, token: str | None, delimiter: str = ""
    ) -> AsyncIterator[Page]:
        """Yield what lies below a prefix, page by page."""
        after: str | None = None
        while True:
            call = functools.partial(
                calls.page,
                bucket=bucket,
                prefix=prefix,
                delimiter=delimiter,
                after=after,
                timeout=self._lanes.timeout,
            )
            page, after = await self._lanes.ask("list", call, Prefix(bucket, prefix), token=token)
            yield page
            if not after:
                return

    async def list(self, bucket: str, prefix: str, *, token: str | None) -> AsyncIterator[Pinned]:
        """Yield all objects below a prefix."""
        async for page in self.pages(bucket, prefix, token=token):
            for row in page.items:
                yield row

    async def read(self, pinned: Pinned, start: int, stop: int, *, token: str | None) -> bytes:
        """Return a range of the stored bytes."""
        return await download.read(self._lanes, pinned, start, stop, token=token)

    async def fetch(
        self,
        pinned: Pinned,
        fd: int,
        *,
        token: str | None,
        progress: Progress | None = None,
        part: int = PART,
        parallel: int = 8,
    ) -> None:
        """Write all bytes to a descriptor."""
        await download.fetch(
            self._lanes, pinned, fd, token=token, progress=progress, part=part, parallel=parallel
        )

    async def put(
        self,
        fd: int,
        size: int,
        address: Address,
        *,
        token: str | None,
        crc32c: int,
        if_generation: int | None = None,
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
        on_session: Callable[[str], None] | None = None,
        resume: str = "",
        reading: Reading | None = None,
        progress: Progress | None = None,
    ) -> Pinned:
        """Store an object."""
        wanted = upload.Upload(
            fd=fd,
            size=size,
            address=Address(address.bucket, address.name),
            token=token,
            crc32c=crc32c,
            if_generation=if_generation,
            content_type=content_type,
            metadata=dict(metadata or {}),
            id=secrets.token_hex(16),
            reading=reading or self._lanes.work,
        )
        return await upload.put(self._lanes, wanted, on_session=on_session, resume=resume, progress=progress)

    async def delete(self, address: Address, *, token: str | None) -> None:
        """Delete an object; one that is not there, or of that generation no more, is fine."""
        call = functools.partial(calls.delete, address=address, timeout=self._lanes.timeout)
        try:
            await self._lanes.ask("delete", call, address, token=token)
        except (NotFound, OriginChanged):
            return

    async def close(self) -> None:
        """Start nothing any more, and give back threads and connections."""
        await self._lanes.close()

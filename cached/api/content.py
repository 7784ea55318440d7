"""A file of a set over HTTP: whole or one range, by sendfile, with the merkle root as its entity tag."""

from __future__ import annotations

import asyncio
import io
import os
import re
from typing import Final

from aiohttp import hdrs, web

from cached.api.verbs import Opened
from cached.errors import UsageError

_RANGE: Final = re.compile(r"\s*bytes\s*=\s*(?:(\d+)\s*-\s*(\d*)|-\s*(\d+))\s*", re.ASCII)
#: Entity tag of a file without bytes, which has no merkle root.
EMPTY: Final = "empty"


class RangeError(UsageError):
    """The range lies outside the file."""

    status = 416


async def send(request: web.Request, opened: Opened) -> web.StreamResponse:
    """Answer GET or HEAD with the file behind `opened`; the descriptor and the pin stay the caller's."""
    if opened.kind != "file":
        raise UsageError(
            "that is a directory, which has no content of its own", hint="GET /v1/sets/{ref}/files lists it"
        )
    tag = await asyncio.to_thread(lambda: opened.root) or EMPTY
    headers = {hdrs.ETAG: f'"{tag}"', hdrs.ACCEPT_RANGES: "bytes"}
    if names(request.headers.get(hdrs.IF_NONE_MATCH, ""), tag):
        return web.Response(status=304, headers=headers)
    size = opened.size
    part = byte_range(request, tag, size)
    start, count = part or (0, size)
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    if part:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{start + count - 1}/{size}"
    response.content_type = "application/octet-stream"
    response.content_length = count
    await response.prepare(request)
    if count and request.method != hdrs.METH_HEAD:
        await pour(request, opened.fd, start, count)
    await response.write_eof()
    return response


def byte_range(request: web.Request, tag: str, size: int) -> tuple[int, int] | None:
    """Return offset and length of the one range asked for; None for the whole file.

    Several ranges, other units and ranges of another version are answered with the whole file, as HTTP
    allows. Raises `RangeError`.
    """
    asked = _RANGE.fullmatch(request.headers.get(hdrs.RANGE, ""))
    condition = request.headers.get(hdrs.IF_RANGE)
    if asked is None or (condition is not None and condition.strip() != f'"{tag}"'):
        return None
    first, last, suffix = asked.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeError(f"the file has {size} bytes; the range begins at {start}", size=size)
    return start, end - start


async def pour(request: web.Request, descriptor: int, start: int, count: int) -> None:
    """Send bytes of a file by sendfile; the connection breaks when they are not there."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_SEQUENTIAL)
    with io.FileIO(descriptor, "rb", closefd=False) as file:
        try:
            sent = await asyncio.get_running_loop().sendfile(transport, file, start, count)
        except OSError:
            transport.abort()  # the length was promised: only a broken connection tells the truth now
            raise
    if sent < count:
        transport.abort()
        raise ConnectionResetError("the stored file is shorter than its manifest says")


def names(header: str, tag: str) -> bool:
    """Tell whether a header with entity tags names this one."""
    tags = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in tags or f'"{tag}"' in tags

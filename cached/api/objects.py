"""Objects of Cloud Storage over HTTP: read by sendfile from a local copy or through, written by way of a spool file.

Whoever asks sends the access token in `Authorization: Bearer TOKEN`; it goes no further than to Cloud Storage.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from aiohttp import hdrs, web

from cached import wire
from cached.addresses import Address, bucket_name, object_name, parse, parse_prefix
from cached.api import content
from cached.api.spool import Spool, take_in
from cached.api.stream import Works
from cached.api.verbs import ObjectVerbs, OpenedObject, Verbs
from cached.errors import CachedError, Refused, UsageError
from cached.node.caller import Caller
from cached.node.objects import PutOptions

Body = TypeVar("Body")

_UNKNOWN_TYPE: Final = "application/octet-stream"
_ONE: Final = "/v1/objects/{bucket}/{name:.+}"


class ClearBody(msgspec.Struct, kw_only=True):
    """Body of POST clear."""

    prefix: str | None = None
    user: str | None = None


class EndBody(msgspec.Struct, kw_only=True):
    """Body of POST end."""

    delete_origin: bool = False
    dry_run: bool = False


class _Asked(msgspec.Struct, kw_only=True):
    """What stands in the query of a request for one object."""

    generation: int | None = None
    scope: str = ""
    keep: Literal["auto", "memory", "none"] = "auto"
    if_generation: int | None = None
    #: One more part of what was opened, and counted, before.
    again: bool = False


class ObjectRoutes:
    """The routes; `caller_of` says who asks, `spool` makes the file that takes in what is written (None: not here)."""

    def __init__(
        self,
        verbs: Verbs,
        caller_of: Callable[[web.Request], Caller],
        works: Works,
        spool: Spool | None,
    ) -> None:
        self._behind = verbs
        self._caller_of = caller_of
        self._works = works
        self._spool = spool

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return [
            web.get("/v1/objects", self._list, allow_head=False),
            web.get("/v1/copies", self._copies),
            web.get("/v1/stat", self._stat),
            web.head(_ONE, self._head),
            web.get(_ONE, self._get, allow_head=False),
            web.put(_ONE, self._put),
            web.post("/v1/clear", self._clear),
            web.post("/v1/scopes/{scope}/end", self._end_scope),
        ]

    @property
    def _verbs(self) -> ObjectVerbs:
        return objects_of(self._behind)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        prefix = parse_prefix(request.query.get("prefix", ""))
        delimiter = request.query.get("delimiter", "")
        pages = self._verbs.list(self._caller_of(request), prefix, token_of(request), delimiter)
        async with contextlib.aclosing(pages):  # type: ignore[type-var]
            return await _listed(request, pages)

    async def _copies(self, request: web.Request) -> web.StreamResponse:
        prefix = request.query.get("prefix", "")
        return _json(self._verbs.copies(self._caller_of(request), parse_prefix(prefix) if prefix else None))

    async def _stat(self, request: web.Request) -> web.StreamResponse:
        address = parse(request.query.get("address", ""))
        return _json(await self._verbs.stat(self._caller_of(request), address, token_of(request)))

    async def _head(self, request: web.Request) -> web.StreamResponse:
        address, _ = _wanted(request)
        view = await self._verbs.stat(self._caller_of(request), address, token_of(request))
        response, _, _ = _head_of(request, view)
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _get(self, request: web.Request) -> web.StreamResponse:
        caller, token = self._caller_of(request), token_of(request)
        address, asked = _wanted(request)
        opened = self._verbs.open_now(caller, address, token, asked.scope)
        if opened is not None:
            opened.count()
        else:
            opened = await self._verbs.open(
                caller,
                address,
                token=token,
                scope=asked.scope,
                keep="again" if asked.again else asked.keep,
                progress=None,
            )
        try:
            return await self._send(request, caller, token, opened)
        finally:
            if opened.fd >= 0:
                os.close(opened.fd)
            if opened.pin:
                self._verbs.release(opened.pin)

    async def _send(
        self, request: web.Request, caller: Caller, token: str, opened: OpenedObject
    ) -> web.StreamResponse:
        view = opened.view
        response, start, count = _head_of(request, view)
        if not count:
            await response.prepare(request)
        elif opened.fd >= 0:
            await response.prepare(request)
            await content.pour(request, opened.fd, start, count)
        else:
            pieces = self._verbs.stream(caller, view, start, start + count, token)
            await _pass_on(request, response, pieces, count)
        await response.write_eof()
        return response

    async def _put(self, request: web.Request) -> web.StreamResponse:
        caller, token = self._caller_of(request), token_of(request)
        address, asked = _wanted(request)
        spool, announced = self._spool, request.content_length
        if spool is None:
            raise Refused("this node takes no objects over HTTP", hint="pass a descriptor on data.sock")
        options = PutOptions(
            if_generation=asked.if_generation,
            content_type=request.headers.get(hdrs.CONTENT_TYPE, ""),
            scope=asked.scope,
        )
        verbs = self._verbs
        async with spool(caller, announced or 0) as file:
            await take_in(request.content, announced, file)
            return _json(await verbs.put(caller, address, file.descriptor, token, options, None))

    async def _clear(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, ClearBody)
        prefix = None if body.prefix is None else parse_prefix(body.prefix)
        return _json(await self._verbs.clear(self._caller_of(request), prefix, body.user))

    async def _end_scope(self, request: web.Request) -> web.StreamResponse:
        caller, token, verbs = self._caller_of(request), token_of(request), self._verbs
        scope, body = request.match_info["scope"], await _body(request, EndBody)
        return await self._works.run(
            request, lambda _report: verbs.end_scope(caller, scope, body.delete_origin, token, body.dry_run)
        )


def objects_of(verbs: Verbs) -> ObjectVerbs:
    """Return the verbs on objects. Raises `Refused` on a node that knows none."""
    found = verbs.objects
    if found is None:
        raise Refused("this node keeps no objects of Cloud Storage", hint="ask another node")
    return found


def token_of(request: web.Request) -> str:
    """Return the access token of a request, empty without one. Raises `UsageError`, which does not quote it."""
    given = request.headers.get(hdrs.AUTHORIZATION, "").strip()
    if not given:
        return ""
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UsageError("this kind of authorization is not known", hint="Authorization: Bearer ACCESS_TOKEN")
    return wire.checked_token(token.strip())


def _wanted(request: web.Request) -> tuple[Address, _Asked]:
    try:
        asked = msgspec.convert(dict(request.query), _Asked, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the query is not well formed: {error}", hint="see docs/wire.md") from error
    for number in (asked.generation, asked.if_generation):
        if number is not None and not 0 <= number < 2**63:
            raise UsageError(f"{number} is no generation")
    bucket, name = request.match_info["bucket"], request.match_info["name"]
    return Address(bucket_name(bucket), object_name(name), asked.generation or None), asked


def _head_of(request: web.Request, view: wire.ObjectView) -> tuple[web.StreamResponse, int, int]:
    """Return the answer without its bytes, and which bytes belong into it: the first, and how many."""
    tag = str(view.generation)
    headers = {
        hdrs.ETAG: f'"{tag}"',
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CONTENT_TYPE: _printable(view.content_type) or _UNKNOWN_TYPE,
        "x-goog-generation": tag,
        "x-goog-hash": f"crc32c={_base64(view.crc32c)}",
    }
    if content.names(request.headers.get(hdrs.IF_NONE_MATCH, ""), tag):
        return web.StreamResponse(status=304, headers=headers), 0, 0
    part = content.byte_range(request, tag, view.size)
    start, count = part or (0, view.size)
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    if part:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{start + count - 1}/{view.size}"
    response.content_length = count
    return response, start, count


async def _listed(request: web.Request, pages: AsyncIterator[wire.ObjectList]) -> web.StreamResponse:
    """Write a list as it comes. What goes wrong before its first page is an ordinary error, later it stands behind."""
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json"})
    prefixes: list[str] = []
    more, error = b"", None
    try:
        async for page in pages:
            if not response.prepared:
                await response.prepare(request)
                await response.write(b'{"items":[')
            if page.items:
                await response.write(more + await asyncio.to_thread(_inner, page.items))
                more = b","
            prefixes += page.prefixes
    except CachedError as failure:
        if not response.prepared:
            raise
        error = failure.to_wire()["error"]
    tail = {"prefixes": prefixes, **({"error": error} if error else {})}
    await response.write(b"]," + wire.encode(tail)[1:])
    await response.write_eof()
    return response


def _inner(items: Sequence[wire.ObjectView]) -> bytes:
    """Return the JSON of a list without its brackets."""
    return wire.encode(items)[1:-1]


async def _pass_on(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes], count: int
) -> None:
    """Write what comes from Cloud Storage; what goes wrong before the first byte is an ordinary error."""
    left = count
    async with contextlib.aclosing(pieces):  # type: ignore[type-var]
        try:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(piece[:left])
                left -= len(piece)
        except (CachedError, OSError):
            if response.prepared and request.transport is not None:
                request.transport.abort()  # the length was promised: only a broken connection tells the truth now
                raise ConnectionResetError("the object could not be read to its end") from None
            raise
    if left > 0:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the object ended early")


def _base64(crc32c: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(crc32c)).decode()
    except (ValueError, binascii.Error):
        return ""


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ""


async def _body(request: web.Request, kind: type[Body]) -> Body:
    return wire.decode(await request.read() or b"{}", kind)


def _json(value: Any) -> web.Response:
    return web.Response(body=wire.encode(value), content_type="application/json")

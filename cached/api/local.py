"""`api.sock`: HTTP/1.1 and JSON under `/v1`, for the command line, schedulers, and any language.

Each route is a few lines: read the request, call the verb with the caller whom the kernel names, write what
it returned. Every error, the framework's too, is `{"error": {...}}`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from aiohttp import web

from cached import wire
from cached.api import content, metrics, stream
from cached.api.attest import AttestRoutes
from cached.api.auth import Callers
from cached.api.door import Door
from cached.api.failures import HttpLog, discreet, unexpected
from cached.api.guests import Guests
from cached.api.objects import ObjectRoutes
from cached.api.requests import target
from cached.api.spool import Spool
from cached.api.verbs import Opened, Verbs
from cached.errors import Busy, CachedError, NotFound, UsageError
from cached.node.caller import Caller
from cached.sets.names import SetRef

Body = TypeVar("Body")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_Rate = Annotated[int, msgspec.Meta(ge=1)] | None | msgspec.UnsetType

#: Largest request body, in bytes.
MOST_BODY: Final = 1 << 20
#: Bytes of a request line: a job's ad travels in one, percent-encoded.
_MOST_LINE: Final = 1 << 18
#: Requests of one user in progress at a time.
MOST_AT_ONCE: Final = 128
#: Idle connections are kept so long, in seconds.
_KEEPALIVE: Final = 600.0


class Changes(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of PATCH: the fields to change."""

    requirements: str | msgspec.UnsetType = msgspec.UNSET
    replicas: Annotated[int, msgspec.Meta(ge=-1)] | msgspec.UnsetType = msgspec.UNSET
    methods: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    share: str | msgspec.UnsetType = msgspec.UNSET
    tier: str | msgspec.UnsetType = msgspec.UNSET


class ExtendBody(msgspec.Struct, kw_only=True):
    """Body of POST extend."""

    lease_seconds: Annotated[int, msgspec.Meta(ge=0, le=wire.MAX_SECONDS)]
    everywhere: bool = False


class ReplicateBody(msgspec.Struct, kw_only=True):
    """Body of POST replicate."""

    replicas: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    to: tuple[str, ...] = ()
    wait: bool = False
    timeout_seconds: Annotated[float, msgspec.Meta(ge=0)] = 3600.0


class VerifyBody(msgspec.Struct, kw_only=True):
    """Body of POST verify."""

    repair: bool = False


class LimitsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of PATCH limits: bytes per second, null for no limit."""

    upload_bytes_per_second: _Rate = msgspec.UNSET
    download_bytes_per_second: _Rate = msgspec.UNSET


class LocalServer:
    """Serves one listening socket."""

    def __init__(
        self,
        verbs: Verbs,
        callers: Callers,
        *,
        counted: metrics.ApiMetrics,
        registry: metrics.Figures,
        connections_per_user: int | None = None,
        spool: Spool | None = None,
    ) -> None:
        """`spool` makes the files that take in objects which are written over HTTP."""
        self._verbs = verbs
        self._callers = callers
        self._counted = counted
        self._registry = registry
        self._works = stream.Works()
        self._objects = ObjectRoutes(verbs, self._caller_of, self._works, spool)
        self._attests = AttestRoutes(verbs, self._caller_of, self._works)
        self._known: WeakKeyDictionary[asyncio.Transport, Caller] = WeakKeyDictionary()
        self._at_work: Counter[int] = Counter()
        self._limit = connections_per_user
        self._runner: web.AppRunner | None = None
        self._door: Door | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve clients of a listening socket, which stays the caller's."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY)
        app.router.add_routes(self.routes())
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=_KEEPALIVE,
            shutdown_timeout=2.0,
            max_line_size=_MOST_LINE,
            logger=HttpLog(lambda: self._counted.failed("malformed", UsageError.code)),
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._door = Door(listener, Guests(partial(discreet, self._runner.server), limit=self._limit).welcome)

    async def close(self) -> None:
        """Stop serving; work that clients began is cancelled."""
        if self._door is not None:
            self._door.close()
        await self._works.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def routes(self) -> list[web.RouteDef]:
        """Return every route; all of them know their caller before they do anything."""
        one = "/v1/sets/{ref}"
        return [
            web.get("/v1/sets", self._sets),
            web.get(one, self._show),
            web.patch(one, self._update),
            web.delete(one, self._delete),
            web.get(f"{one}/files", self._files),
            web.get(f"{one}/content/{{path:.+}}", self._content),
            web.post(f"{one}/extend", self._extend),
            web.post(f"{one}/replicate", self._replicate),
            web.post(f"{one}/fetch", self._fetch),
            web.post(f"{one}/verify", self._verify),
            web.get("/v1/match/{ref}", self._match),
            web.get("/v1/nodes", self._nodes),
            web.get("/v1/status", self._status),
            web.get("/v1/usage", self._usage),
            web.get("/v1/limits", self._get_limits),
            web.patch("/v1/limits", self._change_limits),
            web.get("/v1/locate", self._locate),
            web.get("/v1/metrics", self._metrics),
            *self._objects.routes(),
            *self._attests.routes(),
        ]

    # Around every request

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        op = _operation(request)
        try:
            return await self._admitted(request, handler)
        except CachedError as error:
            return self._refused(op, error)
        except web.HTTPException as error:
            return self._refused(op, _translated(request, error), error.status)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            return self._refused(op, unexpected(op, error))
        finally:
            self._counted.answered(op, time.perf_counter() - started)

    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = self._caller_of(request)
        if self._at_work[caller.uid] >= MOST_AT_ONCE:
            raise Busy(f"user {caller.user} has {MOST_AT_ONCE} requests in progress", hint="wait for some")
        self._at_work[caller.uid] += 1
        try:
            return await handler(request)
        finally:
            self._at_work[caller.uid] -= 1
            if not self._at_work[caller.uid]:
                del self._at_work[caller.uid]

    def _caller_of(self, request: web.Request) -> Caller:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        caller = self._known.get(transport)
        if caller is None:
            caller = self._callers.caller_of(transport.get_extra_info("socket"))
            self._known[transport] = caller
        return caller

    def _refused(self, op: str, error: CachedError, status: int | None = None) -> web.Response:
        self._counted.failed(op, error.code)
        response = _json(error.to_wire(), status=status or error.status)
        if isinstance(error, content.RangeError):
            response.headers["Content-Range"] = f"bytes */{error.details['size']}"
        return response

    # Routes

    async def _sets(self, request: web.Request) -> web.StreamResponse:
        return _json(
            wire.items(await self._verbs.list_sets(self._caller_of(request), _flag(request, "local")))
        )

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._verbs.show(self._caller_of(request), _ref(request)))

    async def _files(self, request: web.Request) -> web.StreamResponse:
        found = await self._verbs.files(self._caller_of(request), _ref(request))
        return web.Response(
            body=await asyncio.to_thread(wire.encode_items, found), content_type="application/json"
        )

    async def _update(self, request: web.Request) -> web.StreamResponse:
        changes = msgspec.structs.asdict(await _body(request, Changes))
        given = {key: value for key, value in changes.items() if value is not msgspec.UNSET}
        return _json(await self._verbs.update(self._caller_of(request), _ref(request), given))

    async def _extend(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, ExtendBody)
        return _json(
            await self._verbs.extend(
                self._caller_of(request), _ref(request), body.lease_seconds, body.everywhere
            )
        )

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        everywhere, dry_run = _flag(request, "everywhere"), _flag(request, "dry_run")
        return _json(await self._verbs.delete(self._caller_of(request), _ref(request), everywhere, dry_run))

    async def _replicate(self, request: web.Request) -> web.StreamResponse:
        caller, ref, body = self._caller_of(request), _ref(request), await _body(request, ReplicateBody)
        return await self._works.run(
            request,
            lambda report: self._verbs.replicate(
                caller, ref, body.replicas, body.to, body.wait, body.timeout_seconds, report
            ),
        )

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        caller, ref = self._caller_of(request), _ref(request)
        return await self._works.run(request, lambda report: self._verbs.fetch(caller, ref, report))

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        caller, ref, body = self._caller_of(request), _ref(request), await _body(request, VerifyBody)
        return await self._works.run(
            request, lambda report: self._verbs.verify(caller, ref, body.repair, report)
        )

    async def _match(self, request: web.Request) -> web.StreamResponse:
        return _json(wire.items(await self._verbs.match(self._caller_of(request), _ref(request))))

    async def _nodes(self, request: web.Request) -> web.StreamResponse:
        return _json(wire.items(await self._verbs.nodes(self._caller_of(request))))

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._verbs.status(self._caller_of(request)))

    async def _usage(self, request: web.Request) -> web.StreamResponse:
        user, since, scope = (request.query.get(name) for name in ("user", "since", "scope"))
        return _json(await self._verbs.usage(self._caller_of(request), user, since, scope))

    async def _get_limits(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._verbs.limits(self._caller_of(request)))

    async def _change_limits(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, LimitsBody)
        both = {"upload": body.upload_bytes_per_second, "download": body.download_bytes_per_second}
        given = {name: rate for name, rate in both.items() if not isinstance(rate, msgspec.UnsetType)}
        return _json(await self._verbs.limit(self._caller_of(request), given))

    async def _locate(self, request: web.Request) -> web.StreamResponse:
        names = request.query.getall("name", [])
        if not names:
            raise UsageError("no set was named", hint="GET /v1/locate?name=NAME&name=...")
        return _json(await self._verbs.locate(self._caller_of(request), names, request.query.get("job_ad")))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(metrics.load)
        return web.Response(
            body=metrics.exposition(self._registry), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    async def _content(self, request: web.Request) -> web.StreamResponse:
        opened = await self._opened(request)
        try:
            return await content.send(request, opened)
        finally:
            os.close(opened.fd)
            self._verbs.release(opened.pin)

    async def _opened(self, request: web.Request) -> Opened:
        caller = self._caller_of(request)
        ref, path = target(request.match_info["ref"], request.match_info["path"])
        return self._verbs.open_now(caller, ref, path) or await self._verbs.open_path(
            caller, ref, path, fetch=_flag(request, "fetch", default=True), progress=None
        )


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=wire.encode(value), status=status, content_type="application/json")


def _ref(request: web.Request) -> SetRef:
    ref, path = target(request.match_info["ref"], "")
    if path:
        raise UsageError("a set is named here, without a path in it", hint="leave the path out")
    return ref


def _flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    text = request.query.get(name)
    if text is None:
        return default
    if text not in _FLAGS:
        raise UsageError(f"{name}={text!r} is neither yes nor no", hint=f"write {name}=1 or {name}=0")
    return _FLAGS[text]


_FLAGS: Final = {"1": True, "true": True, "": True, "0": False, "false": False}


async def _body(request: web.Request, kind: type[Body]) -> Body:
    return wire.decode(await request.read() or b"{}", kind)


def _operation(request: web.Request) -> str:
    """Return a label for metrics: never anything that a client could choose freely."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical}" if resource is not None else "unknown"


def _translated(request: web.Request, error: web.HTTPException) -> CachedError:
    """Say what the framework refused in our own words."""
    if error.status == 404:
        return NotFound(f"there is nothing at {request.path}", hint="see docs/wire.md")
    if error.status == 405:
        return UsageError(f"{request.method} is not possible at {request.path}", hint="see docs/wire.md")
    if error.status == 413:
        return UsageError("the request's body is too large", hint=f"at most {MOST_BODY} bytes")
    return UsageError(error.reason)

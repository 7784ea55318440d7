"""Who dumped an object: the daemon hashes the bytes itself, those that it is handed and those that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from cached import wire
from cached.addresses import Address, parse
from cached.api.objects import objects_of, token_of
from cached.api.stream import Works
from cached.api.verbs import AttestVerbs, ObjectVerbs, Report, Verbs
from cached.critical import to_the_end
from cached.errors import IntegrityFailed, OriginChanged, Refused, SourceChanged
from cached.node.caller import Caller

#: Runs what blocks, and returns what that returned.
Reading = Callable[[Callable[[], int]], Awaitable[int]]
#: Bytes hashed by one call.
_PIECE: Final = 8 << 20
#: Hashes remembered, by file: device, inode, and when it came to be.
_MOST_KNOWN: Final = 4096


class CheckBody(msgspec.Struct, kw_only=True):
    """Body of POST attest/check."""

    address: str


class AttestRoutes:
    """The route that tells who dumped an object."""

    def __init__(self, verbs: Verbs, caller_of: Callable[[web.Request], Caller], works: Works) -> None:
        self._verbs = verbs
        self._caller_of = caller_of
        self._works = works
        self._known: OrderedDict[str, str] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return [web.post("/v1/attest/check", self._check)]

    async def _check(self, request: web.Request) -> web.StreamResponse:
        caller, token = self._caller_of(request), token_of(request)
        address = parse(wire.decode(await request.read() or b"{}", CheckBody).address)
        return await self._works.run(request, lambda report: self._checked(caller, address, token, report))

    async def _checked(self, caller: Caller, address: Address, token: str, report: Report) -> wire.Attested:
        """Ask Cloud Storage, as the user, what lies there and what is said of it; compare with the bytes themselves."""
        objects, attests = objects_of(self._verbs), attests_of(self._verbs)
        view = await objects.stat(caller, address, token)
        statement = view.metadata.get(wire.DUMP_METADATA, "")
        sha256, file = await self._hash_of(objects, caller, view, token, report) if statement else ("", "")
        user = attests.check(statement, sha256, Address(view.bucket, view.name, view.generation))
        return wire.Attested(user=user, own=user == caller.user, file=file)

    async def _hash_of(
        self, objects: ObjectVerbs, caller: Caller, view: wire.ObjectView, token: str, report: Report
    ) -> tuple[str, str]:
        """Return the SHA-256 of the very generation, and which file has it; each file is hashed once."""
        address = Address(view.bucket, view.name, view.generation)
        opened = await objects.open(caller, address, token=token, scope="", keep="auto", progress=report)
        try:
            if opened.view.generation != view.generation:
                raise OriginChanged(f"{address} was replaced while it was looked at", hint="try again")
            if opened.fd < 0:
                return await _hash_of_stream(objects, caller, view, token), ""
            found = os.fstat(opened.fd)
            file = f"{found.st_dev}:{found.st_ino}"
            return await self._once(f"{file}:{found.st_ctime_ns}", opened.fd, view.size, report), file
        finally:
            if opened.fd >= 0:
                os.close(opened.fd)
            if opened.pin:
                objects.release(opened.pin)

    async def _once(self, which: str, descriptor: int, size: int, report: Report) -> str:
        known = self._known.get(which)
        if known is None:
            known = self._known[which] = await hash_of_file(descriptor, size, report)
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(which)
        return known


def attests_of(verbs: Verbs) -> AttestVerbs:
    """Return the verbs on who dumped an object. Raises `Refused` on a node that attests nothing."""
    if verbs.attests is None:
        raise Refused("this node does not attest who dumped an object", hint="ask another node")
    return verbs.attests


async def _own(call: Callable[[], int]) -> int:
    return await to_the_end(asyncio.to_thread(call))


async def hash_of_file(descriptor: int, size: int, report: Report, reading: Reading = _own) -> str:
    """Return the SHA-256, in hex, of all bytes of a file; the descriptor stays the caller's.

    `reading` runs what reads from it, which blocks.
    """
    found, done = hashlib.sha256(), 0
    while done < size:
        count = await reading(partial(_add, found, descriptor, done))
        if not count:
            raise SourceChanged("the file changed while it was read", hint="write it again")
        done += count
        report(wire.Progress(bytes_present=done, bytes_wanted=size, state="VERIFYING"))
    return found.hexdigest()


def _add(found: hashlib._Hash, descriptor: int, at: int) -> int:
    data = os.pread(descriptor, _PIECE, at)
    found.update(data)
    return len(data)


async def _hash_of_stream(objects: ObjectVerbs, caller: Caller, view: wire.ObjectView, token: str) -> str:
    found, done = hashlib.sha256(), 0
    async with contextlib.aclosing(objects.stream(caller, view, 0, view.size, token)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            await asyncio.to_thread(found.update, piece)
            done += len(piece)
    if done != view.size:
        raise IntegrityFailed(f"{view.address} ended early")
    return found.hexdigest()

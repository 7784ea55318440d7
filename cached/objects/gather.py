"""Bring an object here, part by part: from the nodes that have its parts, else from the origin, each part once.

The home of a part says what to do: take it from a node that has it, fetch it from the origin and hand it over, or
wait because somebody else is fetching it. Nodes begin at different parts, so that they share the work. Whoever
cannot be asked is done without.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cached.errors import CachedError
from cached.objects.assembly import Assembly
from cached.objects.home import home
from cached.objects.neighbours import (
    LONGEST_WAIT,
    Answer,
    Asked,
    Given,
    Neighbours,
    Part,
    PartWanted,
    longest,
)
from cached.origin.origin import Origin
from cached.origin.values import Pinned

#: Parts under way at the same time.
PARALLEL: Final = 4
#: Bytes of one request to the origin.
_REQUEST: Final = 8 << 20
#: Times that somebody else's fetch is waited for before this node fetches by itself, and what it waits at least.
_MOST_WAITS: Final = 6
_BREATH: Final = 0.05
#: Seconds between renewals of claims.
_RENEW: Final = 1.5

#: `count(event)`: something that should not go unnoticed.
Count = Callable[[str], None]


@dataclass(kw_only=True)
class Gathering:
    """One object on its way to this node."""

    assembly: Assembly
    pinned: Pinned
    #: Bytes of a part.
    block: int
    #: For whom, and with whose token the origin is asked.
    user: str
    scope: str
    token: str
    origin: Origin
    neighbours: Neighbours
    count: Count
    #: Called when a part is there.
    arrived: Callable[[], None]
    #: Ask no other node: what they sent was wrong.
    alone: bool = False
    #: Claims that this node holds: id to the home that gave it.
    claims: dict[str, str] = field(default_factory=dict)
    #: Parts to be brought, and how often each was waited for.
    queue: deque[tuple[int, int]] = field(default_factory=deque)

    def part(self, index: int) -> Part:
        """Return what part `index` is called among nodes."""
        return Part(key=self.assembly.key, size=self.assembly.size, block=self.block, index=index)


async def gather(job: Gathering) -> None:
    """Bring all missing parts; returns when the assembly is complete.

    Raises what the origin raises: `NotFound`, `Forbidden`, `OriginChanged`, `OriginUnavailable`; `NoSpace` is the
    caller's matter. After an error or a cancellation nothing writes any more, and claims are given back.
    """
    missing = job.assembly.missing()
    turn = _turn(job.neighbours.me, len(missing))
    job.queue.extend((index, 0) for index in (*missing[turn:], *missing[:turn]))
    renewing = asyncio.create_task(_renew(job))
    workers = [asyncio.create_task(_work(job)) for _ in range(min(PARALLEL, len(missing)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in (renewing, *workers):
            task.cancel()
        await asyncio.wait({renewing, *workers})
        await _give_back(job)


async def _work(job: Gathering) -> None:
    while job.queue:
        index, waits = job.queue.popleft()
        if not await _bring(job, index, waits):
            job.queue.append((index, waits + 1))


async def _bring(job: Gathering, index: int, waits: int) -> bool:
    """Bring one part, or return False when it is to be asked for again."""
    part = job.part(index)
    where = None if job.alone else home(part.key.digest, index, job.neighbours.present(job.user))
    if where is None:
        await _from_origin(job, part)
        return True
    wait = LONGEST_WAIT if waits else 0.0
    answer = await _ask(job, where, Asked(part=part, user=job.user, wait=wait))
    if answer.what == "have":
        node = answer.node or where
        if await _from_node(job, part, node):
            return True
        again = Asked(part=part, user=job.user, failed=node)
        answer = await _ask(job, where, again) if node != where else Answer(what="alone")
    if answer.what == "wait" and waits < _MOST_WAITS:
        await asyncio.sleep(_BREATH)
        return False
    if answer.what == "fetch":
        await _fetched_for_all(job, part, where, answer.claim)
    else:
        await _from_origin(job, part)
    return True


async def _ask(job: Gathering, where: str, asked: Asked) -> Answer:
    """Ask the home of a part; one that cannot be asked is done without."""
    try:
        return await job.neighbours.ask(where, asked)
    except CachedError:
        job.count("objects.home_failed")
        return Answer(what="alone")


async def _from_node(job: Gathering, part: Part, node: str) -> bool:
    """Take a part from a node that is said to have it; False when it does not come."""
    chunks = job.neighbours.bytes_of(node, PartWanted(part=part, user=job.user))
    try:
        async with asyncio.timeout(longest(part)):
            await job.assembly.take(part.index, "peer", chunks)
    except (CachedError, TimeoutError):
        job.count("objects.peer_failed")
        return False
    job.arrived()
    return True


async def _from_origin(job: Gathering, part: Part) -> None:
    await job.assembly.take(part.index, "origin", _requests(job, part))
    job.arrived()


async def _fetched_for_all(job: Gathering, part: Part, where: str, claim: str) -> None:
    job.claims[claim] = where
    await _from_origin(job, part)
    crc = job.assembly.crc_of(part.index)
    try:
        await job.neighbours.give(
            where, Given(part=part, claim=claim, crc32c=crc, user=job.user, scope=job.scope)
        )
    except CachedError:
        job.count("objects.give_failed")
    finally:
        job.claims.pop(claim, None)


async def _requests(job: Gathering, part: Part) -> AsyncIterator[bytes]:
    for at in range(part.start, part.stop, _REQUEST):
        yield await job.origin.read(job.pinned, at, min(at + _REQUEST, part.stop), token=job.token)


async def _renew(job: Gathering) -> None:
    while True:
        await asyncio.sleep(_RENEW)
        by_home: dict[str, list[str]] = {}
        for claim, where in job.claims.items():
            by_home.setdefault(where, []).append(claim)
        await _all(job.neighbours.renew(where, claims) for where, claims in by_home.items())


async def _give_back(job: Gathering) -> None:
    """Let others fetch what this node does not fetch after all."""
    left, job.claims = job.claims, {}
    await _all(
        job.neighbours.give(where, Given(part=job.part(0), claim=claim, failed=True, user=job.user))
        for claim, where in left.items()
    )


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make calls at once; who does not answer will find out by itself."""
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, BaseException) and not isinstance(answer, CachedError):
            raise answer


def requests(size: int) -> int:
    """Return how many requests to the origin so many bytes take."""
    return -(-size // _REQUEST)


def _turn(node: str, count: int) -> int:
    """Return the part at which a node begins: another one for each node."""
    return int(node[:8] or "0", 16) % count if count else 0

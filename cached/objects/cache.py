"""The object cache of one node: the ports that reading, writing and clearing work through, and what they share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import msgspec

from cached.critical import end
from cached.errors import OriginUnavailable
from cached.hands import Hands
from cached.objects.account import Account, Place
from cached.objects.credit import Credit
from cached.objects.entry import Entry
from cached.objects.freshness import Freshness
from cached.objects.hits import Hit, Hits
from cached.objects.homes import Homes
from cached.objects.key import ObjectKey
from cached.objects.lent import Lent
from cached.objects.neighbours import Neighbours
from cached.objects.room import rounded
from cached.objects.tiers import Tiers
from cached.origin.origin import Origin
from cached.origin.values import Pinned

T = TypeVar("T")
Sharing = Literal["permission", "owner"]
#: `again`: as `none`, for one more part of what was opened, and counted, before.
Keep = Literal["auto", "memory", "none", "again"]

#: Copies that are looked at in a row.
_GLANCES: Final = 50
#: Seconds that a value stays in the shared tier without being written again.
SHARED_FOR: Final = 86_400


class Shared(Protocol):
    """The tier for small objects that all nodes share. Nothing here fails its caller."""

    #: Largest value, in bytes.
    max_value: int

    @property
    def state(self) -> str:
        """`on`, `off`, or since when it is lost, in words."""
        ...

    @property
    def troubles(self) -> list[str]:
        """What an operator should look at, in words."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return a value that nobody has changed, or None."""
        ...

    async def set(self, key: str, value: bytes, ttl_seconds: int) -> bool:
        """Store a value; say whether it is there now."""
        ...

    async def delete(self, keys: Iterable[str]) -> int:
        """Forget values; return how many were there."""
        ...


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """For whom an object is read; the token goes to Cloud Storage and nowhere else."""

    user: str
    token: str
    scope: str = ""

    def __repr__(self) -> str:
        return f"Reader({self.user!r})"


@dataclass(frozen=True)
class Pace:
    """How far a read has got: bytes here, bytes in all."""

    present: int
    wanted: int


Report = Callable[[Pace], None]


@dataclass(kw_only=True)
class ObjectCache:
    """What the use cases on objects work with. `now` only goes forward, `wall` is the wall clock, both in seconds."""

    origin: Origin
    tiers: Tiers
    freshness: Freshness
    neighbours: Neighbours
    homes: Homes
    account: Account
    #: None: no tier is shared.
    shared: Shared | None
    sharing: Sharing
    #: Bytes of a part.
    block: int
    now: Callable[[], float]
    wall: Callable[[], float]
    #: `count(event, amount)`: for everything that should not go unnoticed.
    count: Callable[..., None]
    #: `note(event, words, **facts)`: the same, said in the log.
    note: Callable[..., None]
    #: `charged(user, scope, parts, operations, reads)`: what was moved for a user by so many reads, in bytes by place,
    #: and how many requests to Cloud Storage that took.
    charged: Callable[[str, str, Mapping[Place, int], int, int], None] = lambda *_: None
    #: What the news of other nodes may cost.
    credit: Credit = field(default_factory=Credit)
    #: Copies on their way here, by name.
    flights: dict[str, Flight[Any]] = field(default_factory=dict)
    #: Threads that read what users hand over.
    hands: Hands = field(default_factory=Hands)
    #: Work that nobody waits for.
    background: set[asyncio.Task[Any]] = field(default_factory=set)
    #: Copies that local readers have open, and who reads, by pin.
    pins: dict[str, tuple[Entry, str]] = field(default_factory=dict)
    #: What each local user has open.
    lent: Lent = field(default_factory=Lent)
    #: Hits that are not counted yet; whoever wants figures settles them first.
    hits: Hits = field(default_factory=Hits)
    _serial: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.hits.count = self.hit

    def key(self, user: str, pinned: Pinned) -> ObjectKey:
        """Return what a user's copy of a generation is kept under."""
        owner = user if self.sharing == "owner" else ""
        return ObjectKey(pinned.bucket, pinned.name, pinned.generation, owner)

    def may_hold(self, user: str, name: str, size: int) -> bool:
        """Say whether a user may have one more copy open, and not the others' share of the tiers with it."""
        tiers = self.tiers
        return self.lent.allows(user, name, rounded(size), tiers.index.capacity, tiers.is_open)

    def pin(self, entry: Entry, user: str) -> str:
        """Return a new name for an open of a copy by a user; `unpin` ends it."""
        name = f"object-{next(self._serial)}"
        self.pins[name] = entry, user
        self.lent.lend(user, entry.name, rounded(entry.size))
        return name

    async def reap(self) -> None:
        """Give back the room of what nobody has open any more, and look what users have open without saying so."""
        await self.tiers.reap()
        names, still = self.lent.unproven(), set()
        for number, name in enumerate(names):
            if self.tiers.is_open(name):
                still.add(name)
            if number % _GLANCES == 0:
                await asyncio.sleep(0)  # each takes some microseconds: opens of others go between
        self.lent.proven(names, still)

    def unpin(self, name: str) -> None:
        """End an open; nothing happens when there is none of that name."""
        found = self.pins.pop(name, None)
        if found is not None:
            entry, user = found
            self.tiers.release(entry)
            self.lent.close(user, entry.name)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have work done that nobody waits for; what fails is counted."""
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self._ended)

    def hit(self, hit: Hit, times: int = 1) -> None:
        """Count hits in memory and charge their reader."""
        entry, user, scope = hit
        if entry.held:
            self.tiers.index.touch(entry, user, self.wall(), times)
        parts: dict[Place, int] = {"memory": entry.size * times}
        self.account.served(entry.name, entry.size, parts, self.now(), times)
        self.charged(user, scope, parts, 0, times)

    async def close(self) -> None:
        """End all that is under way."""
        self.hits.settle()
        for flight in list(self.flights.values()):
            await end(flight.task)
        for task in list(self.background):
            await end(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.count("objects.background_failed")


class Flight(Generic[T]):
    """One piece of work that several wait for; it is ended when nobody does any more."""

    def __init__(self, work: Coroutine[Any, Any, T], landed: Callable[[], None]) -> None:
        self.pace = Pace(0, 0)
        self.task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work)
        self.task.add_done_callback(lambda _: landed())
        self._waiting = 0

    async def join(self) -> T:
        """Wait for the result; a cancelled waiter leaves the work to the others."""
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if self.task.cancelled() and me is not None and not me.cancelling():
                raise OriginUnavailable("the node is stopping", hint="ask again in a moment") from None
            raise
        finally:
            self._waiting -= 1
            if not self._waiting and not self.task.done():
                self.task.cancel()

"""The node: the ports that every use case works through, and the little state that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from cached.catalog.rows import ReplicaRow
from cached.catalog.sqlite import Catalog
from cached.config import Config
from cached.leases import deadline
from cached.leases.deadline import Clock, Deadline, Moment
from cached.leases.lease import Lease
from cached.leases.meter import Meter
from cached.matching.ads import Ad, NodeFacts
from cached.matchmaker.pool import Matchmaker
from cached.node.access import Decisions
from cached.node.consents import Consents
from cached.node.counters import Counters
from cached.node.flight import Flight
from cached.node.jobs import Jobs
from cached.node.locks import Locks
from cached.node.manifests import Manifests
from cached.node.pins import Pins
from cached.node.rejections import Rejections
from cached.node.roots import Roots
from cached.node.shelf import Shelf
from cached.node.space import Space
from cached.node.stir import Stir
from cached.node.trust import trusted_with
from cached.node.upload import Upload
from cached.node.writing import Writing
from cached.objects.cache import ObjectCache
from cached.origin.origin import Origin
from cached.peers.directory import Directory
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.peers.records import HolderEntry, NodeEntry
from cached.precedence import BULK, step_back
from cached.replication.bittorrent import Swarm
from cached.replication.direct import Direct
from cached.replication.reading import Table
from cached.replication.serving import DirectServer
from cached.sets.set import Tier
from cached.storage.disk import Store
from cached.storage.fileindex import FileIndex

if TYPE_CHECKING:
    from cached.node.meeting import Meeting


class Abortable(Protocol):
    """Work that an orderly stop ends, and a sweep when it has come to a halt."""

    def idle(self, now: float) -> float:
        """Return for how many seconds nothing has happened; `now` is monotonic."""
        ...

    async def abort(self) -> None:
        """End it and leave nothing behind."""
        ...


@dataclass(frozen=True)
class Trouble:
    """Something that an operator should look at, in words, and the sets that it is about.

    Not everybody may know them.
    """

    words: str
    sets: tuple[str, ...] = ()


def _threads(number: int, name: str) -> ThreadPoolExecutor:
    """Return threads that give way to all others of the process."""
    return ThreadPoolExecutor(number, thread_name_prefix=name, initializer=step_back, initargs=(BULK,))


@dataclass(kw_only=True)
class Node:
    """One running node. Only `cached.daemon` makes it; use cases take it as their first argument."""

    config: Config
    identity: Identity
    clock: Clock
    #: Makes random ids of 32 hex digits.
    new_id: Callable[[], str]
    catalog: Catalog
    shelf: Shelf
    stores: dict[Tier, Store]
    space: Space
    pins: Pins
    matchmaker: Matchmaker
    link: Link
    directory: Directory
    swarm: Swarm
    direct: Direct
    direct_server: DirectServer
    counters: Counters
    #: This machine's facts for the node ad, completed with what changes.
    facts: Callable[..., NodeFacts]
    host: str
    #: When the daemon started.
    started: Moment
    objects: ObjectCache
    #: Cloud Storage behind the sets; None where this node has none.
    origin: Origin | None = None
    #: Returns the groups of a user of this machine, by name.
    groups_of: Callable[[str], frozenset[str]] = lambda _user: frozenset()
    #: Local jobs that wait for bytes.
    jobs: Jobs = field(default_factory=Jobs)
    locks: Locks = field(default_factory=Locks)
    #: Objects that are being written for scopes.
    writing: Writing = field(default_factory=Writing)
    #: Threads that copy what users hand over, apart from those that everything else waits for, and after them.
    copiers: ThreadPoolExecutor = field(default_factory=partial(_threads, 8, "copier"))
    #: Threads that make the leaves of what has come: no user's file keeps them waiting.
    provers: ThreadPoolExecutor = field(default_factory=partial(_threads, 2, "prover"))
    roots: Roots = field(default_factory=Roots)
    decisions: Decisions = field(default_factory=Decisions)
    manifests: Manifests = field(default_factory=Manifests)
    consents: Consents = field(default_factory=Consents)
    rejections: Rejections = field(default_factory=Rejections)
    #: What users took and is not written down yet.
    meter: Meter = field(default_factory=Meter)
    #: Contents that files are linked from at present, and the transactions that they are linked into.
    lent: dict[str, set[str]] = field(default_factory=dict)
    file_index: FileIndex = field(default_factory=FileIndex)
    #: Creations under way.
    creations: set[Abortable] = field(default_factory=set)
    #: Transfers under way, by set id.
    transfers: dict[str, Flight] = field(default_factory=dict)
    #: By set id: the holders that a transfer has met, while it runs.
    meetings: dict[str, Meeting] = field(default_factory=dict)
    #: Accepted transfers: set id -> transaction id.
    accepted: dict[str, str] = field(default_factory=dict)
    #: The node whose offer was accepted, by set id.
    sources: dict[str, str] = field(default_factory=dict)
    #: Sets on their way into the origin, by set id.
    uploads: dict[str, Upload] = field(default_factory=dict)
    #: Sets that are just being read from the origin here, and what this node keeps of those who share the reading.
    drawing: set[str] = field(default_factory=set)
    tables: dict[str, Table] = field(default_factory=dict)
    #: By content: the node that keeps that for us, and when it last answered, in the event loop's time.
    keepers: dict[str, tuple[str, float]] = field(default_factory=dict)
    #: Sets made of what a document says, until this node has received the bytes that it stands for.
    unproven: set[str] = field(default_factory=set)
    #: Bytes of metadata that peers are sending at present.
    metadata_coming: int = 0
    #: Sets whose bytes were lost while their grant holds: fetched again until that ends.
    owed: set[str] = field(default_factory=set)
    #: By content in the swarm: bytes sent, and the monotonic time since when it has been so many.
    seeds: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: Monotonic time of the last open, by set id.
    last_read: dict[str, float] = field(default_factory=dict)
    #: What an operator should look at.
    troubles: list[Trouble] = field(default_factory=list)
    bittorrent_port: int = 0
    #: Set once the node stops: no new work.
    draining: bool = False
    #: Set once this node has heard what it missed: before that it announces no replica.
    introduced: bool = False
    #: Addresses of live peers as last written down.
    acquaintances: tuple[str, ...] = ()
    #: Background work by key; one flight per key.
    flights: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    #: Tells the replication driver that something changed.
    stirred: Stir = field(default_factory=Stir)
    #: Sets whose replicas are looked after at the same time, at most.
    driving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(64))
    #: Sets that something stirred while they were being looked after.
    restless: set[str] = field(default_factory=set)
    #: By set id: copies that counted when it was last looked after; see `cached.node.drive`.
    counted: dict[str, int] = field(default_factory=dict)
    #: By set id: nodes that have just accepted it from here, and until when they count before they tell of it.
    promised: dict[str, dict[str, float]] = field(default_factory=dict)
    #: By set id: its ad, and what that was made of; see `cached.node.consent`.
    ads: dict[str, tuple[object, Ad]] = field(default_factory=dict)
    #: By node id: its ad, and the digest of it.
    digests: dict[str, tuple[Ad, str]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Node id."""
        return self.identity.node_id

    def holders(self, set_id: str) -> list[HolderEntry]:
        """Return the nodes that tell of a copy of a set, those left out that may not have one."""
        return [entry for entry in self.directory.holders(set_id) if self.may_hold(entry.node, set_id)]

    def may_hold(self, entry: NodeEntry, set_id: str) -> bool:
        """Tell whether a node may have a set, as far as this one knows the set."""
        known = self.shelf.known.get(set_id)
        return known is None or trusted_with(entry, known)

    def counts(self) -> dict[str, int]:
        """Return everything that this node has counted, what it asked of the origin included."""
        asked = self.origin.stats.snapshot() if self.origin is not None else {}
        return dict(sorted((self.counters.snapshot() | asked).items()))

    def now(self) -> Moment:
        """Read the clocks."""
        return self.clock.now()

    def left(self, end: Deadline) -> float:
        """Return the seconds until a deadline, never below zero."""
        return max(0.0, deadline.seconds_left(end, self.clock.now(), self.catalog.high_water))

    def after(self, seconds: float) -> Deadline:
        """Return the deadline `seconds` from now."""
        return deadline.after(self.clock.now(), seconds)

    def overdue(self, end: Deadline) -> float:
        """Return the seconds since a deadline, negative while it is to come."""
        return -deadline.seconds_left(end, self.clock.now(), self.catalog.high_water)

    def longer(self, row: ReplicaRow, seconds: int) -> ReplicaRow:
        """Return the replica under a lease of `seconds` from now, or under its own if that lasts longer."""
        now, high_water = self.clock.now(), self.catalog.high_water
        lease = Lease(deadline=row.grant, granted_seconds=row.granted_seconds)
        lease = lease.extended(seconds, now, high_water)
        return msgspec.structs.replace(row, grant=lease.deadline, granted_seconds=lease.granted_seconds)

    def later(self, left: Deadline, right: Deadline) -> Deadline:
        """Return the later of two deadlines."""
        return deadline.later(left, right, self.clock.now(), self.catalog.high_water)

    def fly(self, key: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Run `work` in the background unless it runs already under that key; return its task."""
        running = self.flights.get(key)
        if running is not None and not running.done():
            return running
        task = asyncio.get_running_loop().create_task(work(), name=key)
        self.flights[key] = task
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: str, task: asyncio.Task[Any]) -> None:
        if self.flights.get(key) is task:
            del self.flights[key]
        if not task.cancelled() and task.exception() is not None:
            self.counters.background_failed(key, task.exception())

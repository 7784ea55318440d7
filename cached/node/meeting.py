"""Meeting: the nodes that a transfer may draw from, each asked for its consent before it is used.

Of two nodes that fetch a set one introduces both: it asks the other, and tells it how it gives the bytes itself. Which
one that is both know; whoever waits in vain for the other asks itself (ADR 42).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec

from cached.errors import CachedError
from cached.node import announce, sources
from cached.node.joined import Enclosed, Joined
from cached.node.node import Node
from cached.node.sources import FETCHING
from cached.peers.records import NodeEntry, Peer
from cached.replication import mesh, method
from cached.replication.transfer import Holder

#: Seconds between two looks at the directory while it says the same, between two glances whether it does, and after
#: which a holder is asked for its consent again.
LOOK = 0.5
GLANCE = 0.05
RENEW = 300.0
#: Seconds to wait before a holder that refused, or was not reached, is asked again, and for an answer.
RETRY = 5.0
ANSWER = 5.0
#: Seconds for which the neighbours that an offer named stand for those whom all that fetch would choose: until then
#: this node may not have heard of all.
NAMED = 10.0
#: Neighbours stay; others are chosen once so few are left. A node of which nothing is heard counts for so many seconds:
#: where lines are full signs of life take long.
ENOUGH = 6
LOST = 30.0
#: Seconds in which a fellow may introduce both before this node does.
COURTESY = 2.0


@dataclass(kw_only=True)
class Meeting:
    """The holders that have agreed to serve one transfer."""

    node: Node
    set_id: str
    #: Those that agreed, when, and in which of their lives: one that was started again has forgotten it.
    agreed: dict[str, tuple[Holder, float, int]] = field(default_factory=dict)
    answers: dict[str, Joined] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    #: Set once somebody agreed who has all bytes, or everybody known at the beginning has been asked.
    met: asyncio.Event = field(default_factory=asyncio.Event)
    #: What nodes told of the set at the last look; see `Directory.mark`.
    mark: object = None
    #: Neighbours in the swarm that the offer named, and until when they are taken at its word.
    named: frozenset[str] = frozenset()
    named_until: float = 0.0
    #: Neighbours in the swarm among those that fetch the set, too, and those who introduced themselves as such.
    near: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)
    #: Since when fellows are waited for that are to introduce both.
    awaited: dict[str, float] = field(default_factory=dict)

    def swarm(self) -> Sequence[Holder]:
        """Return the members of the swarm that are alive and speak as this node does: whole ones, and neighbours.

        Between a node that encrypts and one that does not, the stricter side wins: they use `direct`, always encrypted.
        """
        mine = sources.encryption(self.node)
        return [
            holder
            for holder in self._giving("bittorrent")
            if self.answers[holder.node_id].encryption == mine
            and (holder.complete or holder.node_id in self.near)
        ]

    def direct(self) -> Sequence[Holder]:
        """Return the live holders of all bytes."""
        return [holder for holder in self._giving("direct") if holder.complete]

    def offer(self, way: str) -> bool:
        """Tell whether somebody who has, or will have, the bytes gives them by that method just now."""
        return bool(self.swarm() if way == "bittorrent" else self._giving("direct"))

    def source(self) -> str:
        """Return the node whose uplink is to be spared: the originator when it serves, else the first whole holder."""
        whole = sorted(holder.node_id for holder in self.swarm() if holder.complete)
        return self._originator() if self._originator() in whole else (whole[0] if whole else "")

    def _originator(self) -> str:
        return self.node.shelf.known[self.set_id].record.originator

    def _giving(self, way: str) -> list[Holder]:
        living = {entry.record.id for entry in self.node.directory.nodes() if entry.alive}
        return [
            holder
            for holder, *_ in self.agreed.values()
            if holder.node_id in living and way in self.answers[holder.node_id].methods
        ]

    # Whom to meet

    async def news(self) -> None:
        """Return when nodes tell something else of the set than at the last look, or after `LOOK` seconds."""
        left = LOOK
        while left > 0:
            await asyncio.sleep(GLANCE)
            left = left - GLANCE if self.node.directory.mark(self.set_id) == self.mark else 0.0

    async def look(self) -> None:
        """Introduce this node to those it has not met: holders of all bytes first, then neighbours that fetch, too."""
        self.mark = self.node.directory.mark(self.set_id)
        candidates = self._candidates()
        self._take_note_of_whole(candidates)
        self._choose_neighbours(candidates)
        await self._introduce_to(self._givers(candidates))
        if any(holder.complete for holder, *_ in self.agreed.values()):
            self.met.set()
        if not self._need_no_fellows():
            await self._introduce_to(self._fellows(candidates))

    def _need_no_fellows(self) -> bool:
        """Tell whether somebody streams all of so few bytes that nobody shares them."""
        record = self.node.shelf.known[self.set_id].record
        allowed = {*record.methods} & {*self.node.config.replication.methods}
        alone = "direct" in allowed and not method.worth_sharing(record.bytes, others=1)
        return alone and bool(self.direct())

    async def _introduce_to(self, entries: Sequence[NodeEntry]) -> None:
        await asyncio.gather(*(self._introduce(entry) for entry in entries))

    def _take_note_of_whole(self, candidates: list[tuple[NodeEntry, str]]) -> None:
        """Who has agreed while it fetched the set, and has all of it now, need not be asked again."""
        for entry, state in candidates:
            met = self.agreed.get(entry.record.id)
            if met is not None and state == "COMMITTED":
                holder, when, life = met
                self.agreed[entry.record.id] = replace(holder, complete=True), when, life

    def _givers(self, candidates: list[tuple[NodeEntry, str]]) -> list[NodeEntry]:
        """Return the holders of all bytes to be met now: no more than a node has neighbours, of many each node others.

        The originator and the first by name are everybody's, so that all spare the same one; see `source`.
        """
        whole = {entry.record.id: entry for entry, state in candidates if state in ("COMMITTED", "EXPIRED")}
        living = sum(entry.alive and entry.record.id in self.agreed for entry, _ in candidates)
        room = max(0, mesh.FULL_MESH - living)
        everybodys = {self._originator(), min(whole, default="")}
        order = sorted(mesh.spread(self.node.id, whole), key=lambda one: one not in everybodys)
        due = [one for one in order if self._is_due(whole[one])]
        known = [one for one in due if one in self.agreed]
        return [whole[one] for one in (*known, *[one for one in due if one not in self.agreed][:room])]

    def _fellows(self, candidates: list[tuple[NodeEntry, str]]) -> list[NodeEntry]:
        """Return the neighbours to be met now that fetch the set, too."""
        return [
            entry
            for entry, state in candidates
            if state in FETCHING
            and entry.record.id in self.near
            and self._is_due(entry)
            and self._is_ours(entry)
        ]

    def _choose_neighbours(self, candidates: list[tuple[NodeEntry, str]]) -> None:
        """Choose the neighbours in the swarm; of many those chosen stay, done or not, while enough are left.

        A node's line is shared by all that are connected with it, one as much as the other: who has neighbours with
        more connections than others have is behind everybody at the end.
        """
        there = {
            entry.record.id: state
            for entry, state in candidates
            if (entry.alive or (entry.age < LOST and not entry.left)) and entry.record.id != self.node.id
        }
        coming = {node_id for node_id, state in there.items() if state in FETCHING}
        stay = self.near & there.keys()
        if self._trusts_names():
            chosen = there.keys() & self.named
        elif len(coming) < mesh.FULL_MESH or len(stay) < ENOUGH:
            chosen = stay | mesh.fellows(self.node.id, coming)
        else:
            chosen = stay
        self.near = chosen | (self.came & there.keys())

    def _trusts_names(self) -> bool:
        return bool(self.named) and asyncio.get_running_loop().time() < self.named_until

    def _candidates(self) -> list[tuple[NodeEntry, str]]:
        """Return the nodes that tell of a replica, the one that offered the set, and the neighbours that it named."""
        directory = self.node.directory
        found = {
            entry.node.record.id: (entry.node, entry.holding.state)
            for entry in self.node.holders(self.set_id)
        }
        source = self.node.sources.get(self.set_id)
        offering = directory.node(source) if source else None
        if offering is not None:
            found.setdefault(offering.record.id, (offering, "COMMITTED"))
        for fellow in filter(None, map(directory.node, self.named if self._trusts_names() else ())):
            found.setdefault(fellow.record.id, (fellow, "TRANSFERRING"))
        return list(found.values())

    def _is_due(self, entry: NodeEntry) -> bool:
        node_id, now = entry.record.id, asyncio.get_running_loop().time()
        if node_id == self.node.id or not entry.alive or now - self.refused.get(node_id, -RETRY) < RETRY:
            return False
        _, when, life = self.agreed.get(node_id, (None, -RENEW, 0))
        return now - when > RENEW or life != entry.record.incarnation

    def _is_ours(self, entry: NodeEntry) -> bool:
        """Tell whether this node introduces both: it is its turn, or the other one's, who has not for long."""
        other, now = entry.record, asyncio.get_running_loop().time()
        either = self.node.directory.reachable and other.reachable
        if not either or mesh.introduces(self.node.id, other.id):
            return True
        return now - self.awaited.setdefault(other.id, now) >= COURTESY

    # How they are met

    async def meet(self, node_id: str, patience: float) -> bool:
        """Introduce this node to one that fetches the set, too, unless they have met; return whether it agrees."""
        entry = self.node.directory.node(node_id)
        if entry is not None and node_id not in self.agreed:
            await self._introduce(entry, patience)
        return node_id in self.agreed

    async def _introduce(self, entry: NodeEntry, patience: float = ANSWER) -> None:
        node_id, now = entry.record.id, asyncio.get_running_loop().time()
        body = {"set": self.set_id, "ad": announce.ad(self.node), "giving": await self._giving_to(entry)}
        try:
            answer = msgspec.convert(
                await self.node.link.call(node_id, "source.join", body, patience), Joined
            )
        except (CachedError, msgspec.ValidationError) as error:
            self.refused[node_id] = now
            self.reasons[node_id] = getattr(error, "message", str(error))
            self.agreed.pop(node_id, None)
            return
        self.count(entry, answer, now)

    async def _giving_to(self, entry: NodeEntry) -> Joined | None:
        """Return how this node gives the bytes that it fetches, where it agrees that a neighbour has them."""
        if self.set_id not in self.node.transfers or entry.record.id not in self.near:
            return None
        peer = Peer(node_id=entry.record.id, domains=entry.domains)
        with contextlib.suppress(CachedError):
            return await sources.join(self.node, peer, self.set_id, entry.record.ad)
        return None

    def offered(self, enclosed: Enclosed) -> None:
        """Count whoever made an offer among those that agreed: it has, before it offered."""
        self.named = frozenset(enclosed.neighbours)
        self.named_until = enclosed.when + NAMED
        entry = self.node.directory.node(enclosed.node_id)
        if enclosed.joined is not None and entry is not None:
            self.count(entry, enclosed.joined, enclosed.when)

    def count(self, entry: NodeEntry, answer: Joined, now: float) -> None:
        """Count a node among those that agreed `now`."""
        record = entry.record
        holder = Holder(
            node_id=record.id,
            host=record.address.rpartition(":")[0].strip("[]"),
            bittorrent_port=answer.bittorrent_port,
            complete=answer.complete,
            reachable=record.reachable,
            bulk=answer.bulk and record.reachable,
        )
        self.answers[record.id] = answer
        self.agreed[record.id] = (holder, now, record.incarnation)


@asynccontextmanager
async def held(node: Node, set_id: str, enclosed: Enclosed | None = None) -> AsyncIterator[Meeting]:
    """Meet the holders of a set, and go on meeting new ones while the block runs.

    Who enclosed in an offer how it gives the bytes is not asked.
    """
    meeting = Meeting(node=node, set_id=set_id)
    if enclosed is not None:
        meeting.offered(enclosed)

    async def meet() -> None:
        try:
            await meeting.look()
        finally:
            meeting.met.set()
        while True:
            await meeting.news()
            await meeting.look()

    node.meetings[set_id] = meeting
    task = asyncio.create_task(meet())
    try:
        yield meeting
    finally:
        if node.meetings.get(set_id) is meeting:
            del node.meetings[set_id]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def introduced(node: Node, peer: Peer, set_id: str, giving: Joined) -> None:
    """Take note of a node that has said, with its own question, how it gives a set that both fetch."""
    meeting, entry = node.meetings.get(set_id), node.directory.node(peer.node_id)
    if meeting is not None and entry is not None:
        meeting.came.add(peer.node_id)
        meeting.near.add(peer.node_id)
        meeting.count(entry, giving, asyncio.get_running_loop().time())

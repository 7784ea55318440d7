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

from cached.errors import CachedError, NotFound
from cached.node import announce, sources
from cached.node.joined import Enclosed, Joined
from cached.node.node import Node
from cached.node.sources import FETCHING
from cached.peers.records import NodeEntry, Peer
from cached.replication import mesh, method
from cached.replication.neighbours import Neighbours
from cached.replication.transfer import Holder

#: Seconds between two looks at the directory while it says the same, between two glances whether it does, and after
#: which a holder is asked for its consent again.
LOOK = 0.5
GLANCE = 0.05
RENEW = 300.0
#: Seconds to wait before a holder that refused, or was not reached, is asked again, and for an answer.
RETRY = 5.0
ANSWER = 5.0
#: A node of which nothing is heard counts for so many seconds: where lines are full signs of life take long.
LOST = 30.0
WAYS = ("direct", "bittorrent")
#: Of a few bytes that somebody streams nobody else is asked, unless that lasts so many seconds.
LASTS = 0.5
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
    #: Set once everybody known at the beginning has been asked; among those who begin together, and whose neighbours
    #: are named, once somebody agrees who has all bytes; at once where somebody streams few bytes.
    met: asyncio.Event = field(default_factory=asyncio.Event)
    #: What nodes told of the set at the last look; see `Directory.mark`.
    mark: object = None
    #: Since when fellows are waited for that are to introduce both.
    awaited: dict[str, float] = field(default_factory=dict)
    #: Named ones that have not taken up the set yet: they are met once they tell of it.
    unready: set[str] = field(default_factory=set)
    neighbours: Neighbours = field(init=False)

    def __post_init__(self) -> None:
        self.neighbours = Neighbours(self.node.id)

    def swarm(self) -> Sequence[Holder]:
        """Return the members of the swarm that are alive and speak as this node does: whole ones, and neighbours.

        Between a node that encrypts and one that does not, the stricter side wins: they use `direct`, always encrypted.
        """
        mine = sources.encryption(self.node)
        return [
            holder
            for holder in self._giving("bittorrent")
            if self.answers[holder.node_id].encryption == mine
            and (holder.complete or holder.node_id in self.neighbours.chosen)
        ]

    def direct(self) -> Sequence[Holder]:
        """Return the live holders of all bytes."""
        return self._whole("direct")

    def knows_whole(self, node_id: str) -> bool:
        """Tell whether a node has agreed that is known to have all bytes."""
        met = self.agreed.get(node_id)
        return met is not None and met[0].complete

    def _whole(self, way: str) -> list[Holder]:
        return [holder for holder in self._giving(way) if holder.complete]

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
        """Introduce this node to those it has not met: holders of all bytes, and neighbours that fetch, too."""
        self.mark = self.node.directory.mark(self.set_id)
        self._take_note_of_progress()
        candidates = self._candidates()
        self._choose_neighbours(candidates)
        await self._introduce_to([*self._givers(candidates), *self._fellows(candidates)])

    def streams_little(self) -> bool:
        """Tell whether somebody streams all of so few bytes that nobody shares them."""
        record = self.node.shelf.known[self.set_id].record
        allowed = {*record.methods} & {*self.node.config.replication.methods}
        alone = "direct" in allowed and not method.worth_sharing(record.bytes, others=1)
        return alone and bool(self.direct())

    async def _introduce_to(self, entries: Sequence[NodeEntry]) -> None:
        await asyncio.gather(*(self._introduce(entry) for entry in entries))

    def _take_note_of_progress(self) -> None:
        """Who has agreed and tells since then that it has all bytes, or has them no more, need not be asked again."""
        now = asyncio.get_running_loop().time()
        for entry in self.node.holders(self.set_id):
            met, state = self.agreed.get(entry.node.record.id), entry.holding.state
            if met is not None and state in ("COMMITTED", *FETCHING) and now - entry.node.record_age > met[1]:
                holder, when, life = met
                whole = replace(holder, complete=state == "COMMITTED")
                self.agreed[entry.node.record.id] = whole, when, life

    def _givers(self, candidates: list[tuple[NodeEntry, str]]) -> list[NodeEntry]:
        """Return the holders of all bytes to be met now: some that answer are enough, of many each node meets others.

        The originator and the first by name are everybody's, so that all spare the same one; see `source`.
        """
        whole = {
            entry.record.id: entry
            for entry, state in candidates
            if state in ("COMMITTED", "EXPIRED") and entry.alive
        }
        due = [one for one, entry in whole.items() if self._is_due(entry)]
        known = [one for one in due if one in self.agreed]
        new = [one for one in due if one not in self.agreed]
        room = max(0, mesh.FULL_MESH - len({one.node_id for way in WAYS for one in self._whole(way)}))
        if len(new) > room:
            everybodys = {self._originator(), min(whole)}
            new = sorted(mesh.spread(self.node.id, new), key=lambda one: one not in everybodys)[:room]
        return [whole[one] for one in (*known, *new)]

    def _fellows(self, candidates: list[tuple[NodeEntry, str]]) -> list[NodeEntry]:
        """Return the neighbours to be met now that fetch the set, too."""
        if self.streams_little():
            return []
        near = self.neighbours.chosen
        return [
            entry
            for entry, state in candidates
            if state in FETCHING and entry.record.id in near and self._is_due(entry) and self._is_ours(entry)
        ]

    def _choose_neighbours(self, candidates: list[tuple[NodeEntry, str]]) -> None:
        others = [(entry, state) for entry, state in candidates if not entry.left]
        living = {entry.record.id for entry, _ in others if entry.alive or entry.age < LOST}
        self.neighbours.choose(
            coming={entry.record.id for entry, state in others if state in FETCHING} & living,
            told={entry.record.id for entry, _ in others},
            present=living & self.agreed.keys(),
            now=asyncio.get_running_loop().time(),
        )

    def _candidates(self) -> list[tuple[NodeEntry, str]]:
        """Return the nodes that tell of a replica, the one that offered the set, and the neighbours that it named."""
        directory = self.node.directory
        found = {
            entry.node.record.id: (entry.node, entry.holding.state)
            for entry in self.node.holders(self.set_id)
        }
        offerer = self.node.sources.get(self.set_id)
        offering = directory.node(offerer) if offerer else None
        if offering is not None:
            found.setdefault(offering.record.id, (offering, "COMMITTED"))
        self.unready -= found.keys()
        trusts = self.neighbours.trusts_names(asyncio.get_running_loop().time())
        named = self.neighbours.named - self.unready if trusts else ()
        for fellow in filter(None, map(directory.node, named)):
            found.setdefault(fellow.record.id, (fellow, "TRANSFERRING"))
        return [one for one in found.values() if self.node.may_hold(one[0], self.set_id)]

    def _is_due(self, entry: NodeEntry) -> bool:
        node_id, now = entry.record.id, asyncio.get_running_loop().time()
        if node_id == self.node.id or not entry.alive or now - self.refused.get(node_id, -RETRY) < RETRY:
            return False
        _, when, life = self.agreed.get(node_id, (None, -RENEW, 0))
        return now - when > RENEW or life != entry.record.incarnation

    def _is_ours(self, entry: NodeEntry) -> bool:
        """Tell whether this node introduces both: it is its turn, or the other one's, who has not for long.

        Of two that do not begin together each asks: who comes knows those who are there before they hear of it.
        """
        other, now = entry.record, asyncio.get_running_loop().time()
        either = self.node.directory.reachable and other.reachable
        together = either and other.id in self.neighbours.named
        if not together or mesh.introduces(self.node.id, other.id):
            return True
        return now - self.awaited.setdefault(other.id, now) >= COURTESY

    # How they are met

    async def meet(self, node_id: str, patience: float) -> bool:
        """Introduce this node to one that fetches the set, too, unless they have met; return whether it agrees."""
        entry = self.node.directory.node(node_id)
        if (
            entry is None
            or node_id == self.node.id
            or not (entry.alive and self.node.may_hold(entry, self.set_id))
        ):
            return False
        if node_id not in self.agreed:
            await self._introduce(entry, patience)
        return node_id in self.agreed

    async def _introduce(self, entry: NodeEntry, patience: float = ANSWER) -> None:
        node_id, clock = entry.record.id, asyncio.get_running_loop().time
        body, begun = {"set": self.set_id, "ad": announce.ad(self.node)}, clock()
        if (giving := await self._giving_to(entry)) is not None:
            body["giving"] = msgspec.to_builtins(giving)
        try:
            answer = msgspec.convert(
                await self.node.link.call(node_id, "source.join", body, patience), Joined
            )
        except (CachedError, msgspec.ValidationError) as error:
            met = self.agreed.get(node_id)
            if met is not None and met[1] > begun:
                return  # it has introduced both meanwhile
            self.agreed.pop(node_id, None)
            self.reasons[node_id] = getattr(error, "message", str(error))
            if isinstance(error, NotFound) and node_id in self.neighbours.named and not self._tells(node_id):
                self.unready.add(node_id)
            elif patience >= ANSWER:
                self.refused[node_id] = clock()
            return
        self.count(entry, answer, begun)

    def _tells(self, node_id: str) -> bool:
        return any(entry.node.record.id == node_id for entry in self.node.holders(self.set_id))

    async def _giving_to(self, entry: NodeEntry) -> Joined | None:
        """Return how this node gives the bytes that it fetches, where it agrees that a neighbour has them."""
        if self.set_id not in self.node.transfers or entry.record.id not in self.neighbours.chosen:
            return None
        peer = Peer(node_id=entry.record.id, domains=entry.domains)
        with contextlib.suppress(CachedError):
            return await sources.join(self.node, peer, self.set_id, entry.record.ad)
        return None

    def offered(self, enclosed: Enclosed) -> None:
        """Count whoever made an offer among those that agreed: it has, before it offered."""
        known = filter(None, map(self.node.directory.node, enclosed.neighbours))
        named = {entry.record.id for entry in known if self.node.may_hold(entry, self.set_id)} - {
            enclosed.node_id
        }
        self.neighbours.name(named & {*enclosed.neighbours}, enclosed.when)
        entry = self.node.directory.node(enclosed.node_id)
        if enclosed.joined is not None and entry is not None:
            self.count(entry, enclosed.joined, enclosed.when)

    def count(self, entry: NodeEntry, answer: Joined, now: float) -> None:
        """Count a node among those that agreed `now`, if it may have the set."""
        record = entry.record
        if not self.node.may_hold(entry, self.set_id):
            return
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
        self.awaited.pop(record.id, None)
        if holder.complete and self.neighbours.named:  # who comes late first learns what others have
            self.met.set()


@asynccontextmanager
async def held(node: Node, set_id: str, enclosed: Enclosed | None = None) -> AsyncIterator[Meeting]:
    """Meet the holders of a set, and go on meeting new ones while the block runs.

    Who enclosed in an offer how it gives the bytes is not asked.
    """
    meeting = Meeting(node=node, set_id=set_id)
    if enclosed is not None:
        meeting.offered(enclosed)

    async def meet() -> None:
        if meeting.streams_little():
            meeting.met.set()
            await asyncio.sleep(LASTS)
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
    """Take note of a node that has said, with its own question, how it gives a set that both fetch.

    Never that it has all bytes: whoever has is asked.
    """
    meeting, entry = node.meetings.get(set_id), node.directory.node(peer.node_id)
    if meeting is None or entry is None or meeting.knows_whole(peer.node_id):
        return
    now = asyncio.get_running_loop().time()
    if meeting.neighbours.came(peer.node_id, now):
        meeting.count(entry, msgspec.structs.replace(giving, complete=False), now)

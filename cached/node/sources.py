"""Sources: the nodes that a transfer may draw from, each asked for its consent before it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from cached.catalog.rows import ReplicaRow
from cached.errors import Busy, CachedError, NotFound
from cached.node import announce, consent
from cached.node.joined import Enclosed, Joined
from cached.node.node import Node
from cached.node.shelf import Known
from cached.peers.records import NodeEntry, Peer
from cached.replication import mesh, placement
from cached.replication.transfer import Holder

#: Seconds between two looks at the directory while it says the same, between two glances whether it does, and after
#: which a holder is asked for its consent again.
LOOK = 0.5
GLANCE = 0.05
RENEW = 300.0
#: Seconds to wait before a holder that refused, or was not reached, is asked again.
RETRY = 5.0
#: Of those that an offer names so many are asked for the metadata, each node others.
_FELLOWS = 3
_FETCHING = ("TRANSFERRING", "REQUESTED")


@dataclass(kw_only=True)
class Introduced:
    """The holders that have agreed to serve one transfer."""

    node: Node
    set_id: str
    #: Those that agreed, when, and in which of their lives: one that was started again has forgotten it.
    agreed: dict[str, tuple[Holder, float, int]] = field(default_factory=dict)
    answers: dict[str, Joined] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    #: Set once every holder known at the beginning has been asked.
    met: asyncio.Event = field(default_factory=asyncio.Event)
    #: What nodes told of the set at the last look; see `Directory.mark`.
    mark: object = None
    #: Nodes that are getting the set, too, but need not have told yet: those to be asked for its metadata, in order.
    fellows: tuple[str, ...] = ()

    def swarm(self) -> Sequence[Holder]:
        """Return the members of the swarm that are alive and speak as this node does: whole ones, and neighbours.

        Between a node that encrypts and one that does not, the stricter side wins: they use `direct`, always encrypted.
        """
        mine, near = _encryption(self.node), self._near(self._candidates())
        return [
            holder
            for holder in self._giving("bittorrent")
            if self.answers[holder.node_id].encryption == mine and (holder.complete or holder.node_id in near)
        ]

    def direct(self) -> Sequence[Holder]:
        """Return the live holders of all bytes."""
        return [holder for holder in self._giving("direct") if holder.complete]

    def offer(self, method: str) -> bool:
        """Tell whether somebody who has, or will have, the bytes gives them by that method just now."""
        return bool(self.swarm() if method == "bittorrent" else self._giving("direct"))

    def source(self) -> str:
        """Return the node whose uplink is to be spared: the originator when it serves, else the first whole holder."""
        whole = sorted(holder.node_id for holder in self.swarm() if holder.complete)
        originator = self.node.shelf.known[self.set_id].record.originator
        return originator if originator in whole else (whole[0] if whole else "")

    def _giving(self, method: str) -> list[Holder]:
        living = {entry.record.id for entry in self.node.directory.nodes() if entry.alive}
        return [
            holder
            for holder, *_ in self.agreed.values()
            if holder.node_id in living and method in self.answers[holder.node_id].methods
        ]

    async def news(self) -> None:
        """Return when nodes tell something else of the set than at the last look, or after `LOOK` seconds."""
        left = LOOK
        while left > 0:
            await asyncio.sleep(GLANCE)
            left = left - GLANCE if self.node.directory.mark(self.set_id) == self.mark else 0.0

    async def look(self) -> None:
        """Introduce this node to every holder that it has not met; of many that fetch, too, to its neighbours."""
        self.mark = self.node.directory.mark(self.set_id)
        now = asyncio.get_running_loop().time()
        candidates = self._candidates()
        near = self._near(candidates) | set(self.fellows)
        wanted = [
            entry
            for entry, state in candidates
            if self._is_due(entry, state, now) and (state not in _FETCHING or entry.record.id in near)
        ]
        await asyncio.gather(*(self._introduce(entry, now) for entry in wanted))

    def _near(self, candidates: list[tuple[NodeEntry, str]]) -> set[str]:
        """Return those of the nodes that fetch, too, which are this node's neighbours in the swarm."""
        fetching = (entry.record.id for entry, state in candidates if state in _FETCHING and entry.alive)
        return mesh.fellows(self.node.id, fetching)

    def _candidates(self) -> list[tuple[NodeEntry, str]]:
        """Return the nodes that tell of a replica, the one that offered the set, and those that it named."""
        found = {
            entry.node.record.id: (entry.node, entry.holding.state)
            for entry in self.node.holders(self.set_id)
        }
        source = self.node.sources.get(self.set_id)
        offering = self.node.directory.node(source) if source else None
        if offering is not None:
            found.setdefault(offering.record.id, (offering, "COMMITTED"))
        for fellow in filter(None, map(self.node.directory.node, self.fellows)):
            found.setdefault(fellow.record.id, (fellow, "TRANSFERRING"))
        return list(found.values())

    def _is_due(self, entry: NodeEntry, state: str, now: float) -> bool:
        node_id = entry.record.id
        if node_id == self.node.id or not entry.alive:
            return False
        if state not in ("COMMITTED", "EXPIRED", *_FETCHING):
            return False
        if now - self.refused.get(node_id, -RETRY) < RETRY:
            return False
        met = self.agreed.get(node_id)
        if met is None:
            return True
        holder, when, life = met
        became_whole = state == "COMMITTED" and not holder.complete
        return now - when > RENEW or became_whole or life != entry.record.incarnation

    async def _introduce(self, entry: NodeEntry, now: float) -> None:
        record = entry.record
        body = {"set": self.set_id, "ad": announce.ad(self.node)}
        try:
            answer = msgspec.convert(await self.node.link.call(record.id, "source.join", body, 5.0), Joined)
        except (CachedError, msgspec.ValidationError) as error:
            self.refused[record.id] = now
            self.reasons[record.id] = getattr(error, "message", str(error))
            self.agreed.pop(record.id, None)
            return
        self._met(entry, answer, now)

    def meet(self, enclosed: Enclosed) -> None:
        """Count whoever made an offer among those that agreed: it has, before it offered."""
        self.fellows = tuple(placement.rendezvous(self.node.id, enclosed.described)[:_FELLOWS])
        entry = self.node.directory.node(enclosed.node_id)
        if enclosed.joined is not None and entry is not None:
            self._met(entry, enclosed.joined, enclosed.when)

    def _met(self, entry: NodeEntry, answer: Joined, now: float) -> None:
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


def _encryption(node: Node) -> str:
    return "tls" if node.swarm.encrypted else "off"


@asynccontextmanager
async def introduced(node: Node, set_id: str, enclosed: Enclosed | None = None) -> AsyncIterator[Introduced]:
    """Meet the holders of a set (`met`: all were asked once), and go on meeting new ones while the block runs.

    Who enclosed in an offer how it gives the bytes is not asked.
    """
    meeting = Introduced(node=node, set_id=set_id)
    if enclosed is not None:
        meeting.meet(enclosed)

    async def meet() -> None:
        try:
            await meeting.look()
        finally:
            meeting.met.set()
        while True:
            await meeting.news()
            await meeting.look()

    task = asyncio.create_task(meet())
    try:
        yield meeting
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def receivers(node: Node, set_id: str) -> int:
    """Return how many nodes are receiving a set just now, this one included."""
    states = [entry.holding.state for entry in node.holders(set_id) if entry.node.alive]
    return max(1, sum(state in _FETCHING for state in states))


async def join(node: Node, peer: Peer, set_id: str, ad: dict[str, object]) -> Joined:
    """Answer a node that introduces itself as a reader of a set held, or being fetched, here."""
    known, held = node.shelf.known.get(set_id), node.shelf.replicas.get(set_id)
    if known is None or held is None or held.state == "GOING":
        raise NotFound("this node does not hold that set")
    check_proven(node, known)
    if not node.consents.allowed(peer.node_id, known.record.content):
        await consent.agree(node, peer, known, ad, requested=True)
    return giving(node, held)


def giving(node: Node, held: ReplicaRow) -> Joined:
    """Return how this node gives the bytes of a set that it holds, or is fetching."""
    whole = (held.content, held.tier) not in node.shelf.withheld
    return Joined(
        complete=held.state == "COMMITTED",
        bittorrent_port=node.bittorrent_port,
        # A damaged copy is in no swarm; its files that are whole may still mend those of another.
        methods=tuple(name for name in node.config.replication.methods if whole or name == "direct"),
        encryption=_encryption(node),
        bulk=True,
    )


def proven(node: Node, known: Known) -> bool:
    """Tell whether the bytes of the set's content that are here may be counted as the set's own.

    Knowing a content id is no right to the bytes: a set that names the content of another domain's private set gets
    it only once a node that speaks for the new set has shown that it has it. What is committed was shown.
    """
    set_id, content = known.record.id, known.record.content
    held = node.shelf.replicas.get(set_id)
    if held is not None and held.state == "COMMITTED":
        return True
    others = [node.shelf.known[other].record for other in node.shelf.sets_of_content(content) - {set_id}]
    if set_id in node.unproven and any(
        other.share != "public" and other.owner != known.record.owner for other in others
    ):
        return False  # a document names it, which anybody can write
    domain = known.record.owner.partition("@")[2]
    return all(other.share == "public" or other.owner.partition("@")[2] == domain for other in others)


def check_proven(node: Node, known: Known) -> None:
    """Raise `Busy` while nobody has shown that the bytes here are the set's own."""
    if not proven(node, known):
        raise Busy("this node has not received that set yet")

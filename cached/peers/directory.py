"""Who is there, and who holds what: this node's view of the cluster, kept by gossip.

Every two seconds a node swaps with a few random live ones, with its seeds while it knows nobody, and now and
then with seeds and with nodes thought dead, so that halves of a cluster that lost sight of each other grow
together again. A node is dead when no newer beat was heard for ten seconds; it is alive again with its next
beat. Every answer given here is a hint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Iterable

import msgspec

from cached.errors import CachedError
from cached.peers import advertise as addresses
from cached.peers import naming
from cached.peers.gossip import Gossip, Learned
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.peers.members import AgedBeat, Member, Members, Row, find, holders
from cached.peers.own import OwnRecord, Said
from cached.peers.reach import Reach
from cached.peers.records import HolderEntry, NodeContents, NodeEntry, NodeRecord, RecordBook, SignedNode
from cached.peers.rumours import Rumours

log = logging.getLogger(__name__)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often, in seconds unless noted; tests go faster."""

    round: float = 2.0
    #: Wait between rounds while nobody else is known.
    alone: float = 0.5
    dead: float = 10.0
    forget: float = 86400.0
    #: News waits this long for more, then goes to `spread` nodes at once.
    rumour: float = 0.1
    #: Number of nodes.
    spread: int = 4
    #: Number of nodes to swap with in a round.
    swaps: int = 3
    #: Number of rounds between attempts to find lost nodes again.
    heal: int = 10
    #: Starts that lie closer together than this count as simultaneous.
    same_start: float = 5.0


#: Addresses learned from mDNS that are kept in mind.
MAX_HINTS = 64


class Directory:
    """This node's view of the cluster."""

    def __init__(
        self,
        identity: Identity,
        link: Link,
        book: RecordBook,
        *,
        name: str,
        advertise: str = "",
        seeds: Iterable[str] = (),
        listen: str = "",
        pace: Pace | None = None,
    ) -> None:
        self._identity = identity
        self._link = link
        self._wanted_name = name
        self._advertise = advertise
        self._seeds = tuple(seeds)
        self._listen = listen
        self._pace = pace or Pace()
        self._members = Members(identity.node_id, dead_after=self._pace.dead, forget_after=self._pace.forget)
        self._gossip = Gossip(identity, link, self._members, book, self, self._on_learned)
        self._reach = Reach(link, self._restate)
        self._contents = NodeContents()
        self._own: OwnRecord | None = None
        self._hints: dict[str, None] = {}
        self._at: dict[str, str] = {}
        self._contested = 0
        self._callbacks: list[Callable[[frozenset[str]], None]] = []
        self._living: frozenset[str] = frozenset()
        self._rumours = Rumours(self._gossip, lambda: self._listeners(self._pace.spread), self._pace.rumour)
        self._awake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: `host:port` that peers are told to dial.
        self.address = ""

    @property
    def name(self) -> str:
        """This node's label, unique among the live nodes it has met."""
        return self._own.name if self._own else self._wanted_name

    @property
    def reachable(self) -> bool:
        """Whether peers can dial this node; true until one has tried in vain."""
        return self._reach.reachable

    async def start(self) -> None:
        """Begin to gossip; the link must have been started."""
        self.address = await asyncio.to_thread(self._find_address)
        own = OwnRecord(self._identity, self._wanted_name, _now())
        own.publish(self._contents, self.address, reachable=self.reachable, now=_now())
        self._own = own  # from here on peers get answers
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(work) for work in (self._pulse(), self._rounds(), self._rumours.run())
        ]

    async def meet(self, seconds: float) -> bool:
        """Compare with one seed, the first that answers; tell whether that came to pass within `seconds`.

        A node that was away does so before it speaks of its replicas: meanwhile some may have been deleted.
        """
        visits = [asyncio.ensure_future(self._visit(place)) for place in dict.fromkeys(self._seeds)]
        try:
            async with asyncio.timeout(seconds):
                for visit in asyncio.as_completed(visits):
                    if await visit:
                        return True
        except TimeoutError:
            pass
        finally:
            for one in visits:
                one.cancel()
            await asyncio.gather(*visits, return_exceptions=True)
        return False

    async def close(self) -> None:
        """Say goodbye to a few nodes, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._own is not None:
            self._own.beat(left=True)
            farewell = self._gossip.news([], [self._identity.node_id], [])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._rumours.tell(farewell)

    def publish(self, contents: NodeContents, within: float | None = None) -> None:
        """Say this of our node; costs next to nothing when it was said before. `within`: news may wait so long."""
        self._contents = contents
        if not self._own:
            return
        where, others = self.address, len(self._members)
        said = self._own.publish(contents, where, reachable=self.reachable, now=_now(), others=others)
        if said is Said.ALOUD:
            self._rumours.spread(nodes=[self._identity.node_id], within=within)
        if said is not Said.SAME:
            self._notify(frozenset((self._identity.node_id,)))

    def announce(self, set_ids: Iterable[str], within: float | None = None) -> None:
        """Tell others of set records that changed here: at once, or within so many seconds."""
        self._rumours.spread(sets=set_ids, within=within)

    def nodes(self) -> list[NodeEntry]:
        """Return all nodes heard of within a day, our own first, dead ones too."""
        now = _now()
        own = [self._own.entry(now)] if self._own else []
        return own + [self._members.entry(member, now) for member in self._members]

    def node(self, name: str) -> NodeEntry | None:
        """Return the node with this id, name, host or unambiguous beginning (8+ digits) of an id; live ones first."""
        exact = self._members.get(name)
        return self._members.entry(exact, _now()) if exact else find(self.nodes(), name)

    def host_of(self, node_id: str) -> str:
        """Return the host at which a node can be dialled; empty when it is unknown or cannot be."""
        return self._members.host_of(node_id)

    def holders(self, set_id: str) -> list[HolderEntry]:
        """Return every replica of a set that nodes tell of, ours and those of dead nodes too."""
        now = _now()
        own = [(self._own.entry(now), self._own.holdings)] if self._own else []
        return holders(set_id, own + self._members.told(set_id, now))

    def holding(self, set_id: str) -> Collection[str]:
        """Return the ids of the other nodes that tell of a replica of a set."""
        return self._members.holding(set_id)

    def mark(self, set_id: str) -> object:
        """Return a value that is another whenever it is another that nodes, or the living ones, tell of a set."""
        own = self._own.holdings.get(set_id) if self._own else None
        return self._members.mark(set_id), own and own.state

    def learn(self, address: str) -> None:
        """Take a hint that a member of some cluster may listen at `host:port`."""
        if len(self._hints) >= MAX_HINTS:
            self._hints.pop(next(iter(self._hints)))
        if address not in self._hints:
            self._hints[address] = None
            self._awake.set()

    def on_change(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Have `callback` called with the ids of nodes that changed, came, died or returned."""
        self._callbacks.append(callback)

    def age_seconds(self) -> float:
        """Return how old the oldest news of a live node is."""
        return max((entry.age for entry in self.nodes() if entry.alive), default=0.0)

    # What gossip asks of us.

    def own_row(self) -> Row:
        """Return the digest row of our own record and beat."""
        return self._said.row()

    def own_news(self) -> tuple[SignedNode, AgedBeat]:
        """Return our own record and beat."""
        return self._said.news(_now())

    def outlived(self, record: NodeRecord) -> None:
        """Speak up when others know a later record of ours than we do."""
        if self._said.outlive(record):
            self._restate()

    @property
    def _said(self) -> OwnRecord:
        if self._own is None:
            raise CachedError("this node is starting")
        return self._own

    # The rounds.

    async def _pulse(self) -> None:
        """Give signs of life, also while a round waits for a peer that does not answer."""
        while True:
            self._said.beat()
            await asyncio.sleep(self._pace.round)

    async def _rounds(self) -> None:
        number = 0
        while True:
            try:
                await self._round(number)
            except Exception:
                log.exception("a round of gossip failed")
            number += 1
            wait = self._pace.round if self._living else self._pace.alone
            self._awake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait * random.uniform(0.85, 1.15)):
                    await self._awake.wait()

    async def _round(self, number: int) -> None:
        now = _now()
        self._members.forget(now)
        if self._identity.refresh():
            self._revoked()
            self._rumours.spread(revocations=True)
        await asyncio.gather(
            self._look_around(number),
            *(self._swap(one) for one in self._some(self._pace.swaps)),
        )
        self._see_who_lives()
        self._settle_name()
        self.address = await asyncio.to_thread(self._find_address)
        self._restate()
        await self._reach.step(self.address, [one for one in self._living if self._members.host_of(one)])

    async def _look_around(self, number: int) -> None:
        lonely = not self._living
        heal = number % self._pace.heal == self._pace.heal - 1
        if not lonely and not heal and not self._hints:
            return
        places = list(self._hints)
        self._hints.clear()
        if lonely or heal:
            places += self._seeds
            lost = [member for member in self._members if member.record.id not in self._living]
            places += [one.record.address for one in random.sample(lost, min(len(lost), self._pace.swaps))]
        known = {self._at.get(place) for place in places} & self._living
        await asyncio.gather(
            *(
                self._visit(place)
                for place in dict.fromkeys(places)
                if self._at.get(place) not in known or lonely
            )
        )

    async def _visit(self, place: str) -> bool:
        try:
            node_id = await self._link.dial(place)
        except CachedError as error:
            log.debug("%s", error)
            return False
        self._at[place] = node_id
        return node_id != self._identity.node_id and (node_id in self._living or await self._swap(node_id))

    async def _swap(self, node_id: str) -> bool:
        try:
            await self._gossip.swap(node_id)
            return True
        except CachedError as error:
            log.debug("swap with node %s: %s", node_id[:8], error)
        except Exception:  # whatever one peer says, the round goes on with the others
            log.exception("swap with node %s", node_id[:8])
        return False

    def _some(self, count: int) -> list[str]:
        able = [one for one in self._members.living(_now()) if self._link.can_call(one)]
        return random.sample(able, min(count, len(able)))

    def _listeners(self, count: int) -> list[str]:
        """Choose whom to tell news: among those who are connected, if they are enough to choose from."""
        near = [one for one in self._members.living(_now()) if self._link.at_hand(one)]
        return random.sample(near, count) if len(near) >= 2 * count else self._some(count)

    def _find_address(self) -> str:
        return addresses.address_of(self._advertise, self._listen, self._link.port, self._seeds)

    def _restate(self) -> None:
        said = self._said
        if said.restate(self.address, reachable=self.reachable, now=_now()):
            self._rumours.spread(nodes=[self._identity.node_id])
            self._notify(frozenset((self._identity.node_id,)))

    def _see_who_lives(self) -> None:
        living = self._members.living(_now())
        turned = living ^ self._living
        self._living = living
        self._members.touch(turned)
        for node_id in turned:
            member = self._members.get(node_id)
            label = member.record.name if member else node_id[:8]
            log.info("node %s (%s) is %s", label, node_id[:8], "there" if node_id in living else "gone")
        self._notify(turned)

    def _settle_name(self) -> None:
        rivals = [
            member
            for member in map(self._members.get, self._living)
            if member is not None and member.record.name == self.name
        ]
        self._contested = self._contested + 1 if rivals else 0
        if any(self._yields(rival) for rival in rivals):
            taken = {member.record.name for member in self._members}
            name = naming.free_name(self._wanted_name, self._identity.node_id, taken)
            log.warning("node %s has the name %s: this node is %s", rivals[0].record.id[:8], self.name, name)
            self._said.name = name

    def _yields(self, rival: Member) -> bool:
        now = _now()
        return naming.yields(
            self._identity.node_id,
            rival.record.id,
            rival_lead=rival.record.uptime_seconds + now - rival.signed_at - self._said.uptime(now),
            same_start=self._pace.same_start,
            rounds=self._contested,
        )

    # News.

    def _on_learned(self, learned: Learned, from_node: str, fresh: bool) -> None:
        for node_id in learned.nodes:
            member = self._members.get(node_id)
            if member is not None:
                self._link.learned(node_id, member.record.address, reachable=member.record.reachable)
                self._link.alive(node_id)
        if learned.revocations:
            self._revoked()
        told = learned.nodes - learned.quiet
        self._rumours.spread(
            revocations=learned.revocations,
            nodes=told if fresh else told & {from_node},
            sets=learned.sets if fresh else (),
        )
        self._see_who_lives()
        self._notify(frozenset(learned.nodes))

    def _revoked(self) -> None:
        gone = [member.record.id for member in self._members if self._identity.revoked(member.record.id)]
        dropped = self._members.drop(gone)
        if dropped:
            log.warning("revoked: %s", ", ".join(sorted(one[:8] for one in dropped)))
            self._living -= dropped
            self._notify(dropped)

    def _notify(self, node_ids: frozenset[str]) -> None:
        if node_ids:
            for callback in self._callbacks:
                callback(node_ids)


def _now() -> float:
    return asyncio.get_running_loop().time()

"""How news travels: two nodes compare what they know and exchange what is newer, and fresh news is passed on
at once.

A `swap` starts with digests (node id, incarnation, version, beat; sums over set records) and ends with both
knowing the same. A `rumour` is news pushed unasked to a few nodes, which push it on if it was news to them. A node's
own record goes whole; who passes it on names it, for most have heard it by then, and hands it to those who ask.
Nothing is believed without the signature of the node that it is about, and batches are bounded; what does
not fit comes with the next swap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from cached.errors import CachedError, IntegrityFailed, TimedOut
from cached.peers import setsync
from cached.peers.identity import Identity
from cached.peers.members import AgedBeat, Members, Row
from cached.peers.records import (
    NodeRecord,
    Peer,
    RecordBook,
    SignedNode,
    SignedRevocations,
    digest,
)
from cached.sets.set import SignedRecord

log = logging.getLogger(__name__)

T = TypeVar("T")
Signed = TypeVar("Signed", SignedNode, SignedRecord)

#: Largest node record, and most bytes of records in one message.
MAX_RECORD = 4 << 20
MAX_MESSAGE = 12 << 20
MAX_SETS = 500
MAX_REJECTED = 10_000
CALL_SECONDS = 5.0
TELL_SECONDS = 3.0
#: Who has asked for a record asks nobody else for so many seconds; nobody is asked for more records than this.
ASK_AGAIN = 1.0
MAX_WANTED = 10_000
#: So many signatures are checked on the event loop; more go to a thread.
INLINE_CHECKS = 8


class Question(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the asking node knows."""

    rows: list[Row]
    sums: dict[str, str] = {}
    revocations: int = 0


class News(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a node passes on, and what it would like to have."""

    nodes: list[SignedNode] = []
    beats: list[AgedBeat] = []
    sets: list[SignedRecord] = []
    revocations: SignedRevocations | None = None
    #: Records that are newer than before, and can be had.
    rows: list[Row] = []
    want_nodes: list[str] = []
    want_beats: list[str] = []
    want_sets: list[str] = []


class Answer(News, kw_only=True, omit_defaults=True):
    """The reply to a question: news, and the set records in groups that differ."""

    groups: list[str] = []
    listing: dict[str, tuple[int, str]] = {}


class Learned(msgspec.Struct, kw_only=True):
    """What was news here."""

    nodes: set[str] = msgspec.field(default_factory=set)
    #: Those of them of which others need not hear at once.
    quiet: set[str] = msgspec.field(default_factory=set)
    sets: set[str] = msgspec.field(default_factory=set)
    revocations: bool = False

    def __bool__(self) -> bool:
        return bool(self.nodes or self.sets or self.revocations)


class Caller(Protocol):
    """The part of `Link` that gossip needs."""

    def handle(self, method: str, handler: Any) -> None:
        """Answer calls of `method`."""
        ...

    async def call(self, node_id: str, method: str, body: Any, timeout: float = 10.0) -> Any:
        """Have a node run a method."""
        ...


class Own(Protocol):
    """This node's own part of what is told (see `cached.peers.directory`)."""

    def own_row(self) -> Row:
        """Return the digest row of our own record and beat."""
        ...

    def own_news(self) -> tuple[SignedNode, AgedBeat]:
        """Return our own record and beat."""
        ...

    def outlived(self, record: NodeRecord) -> None:
        """Hear of a record of our own that is newer than what we know: this node has lost its memory."""
        ...


class Gossip:
    """Exchanges node records, beats, set records and revocations with other nodes."""

    def __init__(
        self,
        identity: Identity,
        link: Caller,
        members: Members,
        book: RecordBook,
        own: Own,
        learned: Callable[[Learned, str, bool], None],
    ) -> None:
        self._identity = identity
        self._link = link
        self._members = members
        self._book = book
        self._own = own
        #: Called with the news, who brought it, and whether it is fresh enough to be passed on.
        self._learned = learned
        self._rejected: dict[str, None] = {}
        #: When rows were asked for.
        self._asked: dict[Row, float] = {}
        link.handle("peers.swap", self._on_swap)
        link.handle("peers.give", self._on_give)
        link.handle("peers.rumour", self._on_rumour)

    async def swap(self, node_id: str) -> None:
        """Compare with a node and exchange what differs, both ways; raises `CachedError` when that fails."""
        known = self._book.known()
        question = Question(
            rows=[self._own.own_row(), *self._members.rows()],
            sums=setsync.summary(known),
            revocations=self._identity.revocation_number,
        )
        answer = _read(await self._link.call(node_id, "peers.swap", question, CALL_SECONDS), Answer)
        await self.take(answer, node_id, fresh=False)
        give, want = setsync.exchange(self._book.known(), answer.listing, answer.groups)
        reply = self.news(answer.want_nodes, answer.want_beats, give)
        reply.want_sets = [one for one in want if answer.listing[one][1] not in self._rejected][:MAX_SETS]
        if reply.nodes or reply.beats or reply.sets or reply.want_sets:
            more = await self._link.call(node_id, "peers.give", reply, CALL_SECONDS)
            await self.take(_read(more, News), node_id, fresh=False)

    async def tell(self, node_id: str, news: News) -> None:
        """Have a node know news, and the records that it asks for then; raises `CachedError` when that fails."""
        try:
            async with asyncio.timeout(TELL_SECONDS):
                answer = await self._link.call(node_id, "peers.rumour", news, TELL_SECONDS)
                wanted = _read(answer, News).want_nodes
                if wanted and news.rows:
                    await self._link.call(
                        node_id, "peers.rumour", self.news(wanted, wanted, []), TELL_SECONDS
                    )
        except TimeoutError:
            raise TimedOut("it does not take news in time", node=node_id) from None

    def rumour(self, nodes: Collection[str], sets: Collection[str], *, revocations: bool) -> News:
        """Gather what is new, to be told to those who may know it."""
        own = self._identity.node_id
        news = self.news([own] if own in nodes else [], nodes, sorted(sets))
        news.rows = self._members.rows(nodes)
        news.revocations = self._identity.revocations if revocations else None
        return news

    def news(self, nodes: Iterable[str], beats: Iterable[str], sets: list[str]) -> News:
        """Gather what is known about nodes and sets, up to the size of a message; our own node counts like
        others.
        """
        now = asyncio.get_running_loop().time()
        own = self._identity.node_id
        nodes, beats = list(nodes), list(beats)
        records = self._members.signed(nodes, now)
        aged = self._members.beats(beats, now)
        if own in nodes or own in beats:
            record, beat = self._own.own_news()
            records = [record, *records] if own in nodes else records
            aged = [*aged, beat] if own in beats else aged
        return News(
            nodes=_fit(records), beats=aged, sets=_fit(self._book.give(sets[:MAX_SETS]) if sets else [])
        )

    async def take(self, news: News, from_node: str, *, fresh: bool) -> None:
        """Verify what a node tells, keep what is newer, and report it."""
        learned = Learned()
        if news.revocations is not None:
            try:
                learned.revocations = self._identity.accept(news.revocations)
            except IntegrityFailed as error:
                log.warning("node %s passed on bad revocations: %s", from_node[:8], error)
        await self._take_nodes(news.nodes, from_node, learned)
        turned = self._take_beats(news.beats, from_node)
        learned.nodes |= turned
        learned.quiet -= turned
        learned.sets |= await self._take_sets(news.sets, from_node)
        if learned:
            self._learned(learned, from_node, fresh)

    async def _take_nodes(self, records: list[SignedNode], from_node: str, learned: Learned) -> None:
        def verified() -> list[tuple[SignedNode, NodeRecord, Peer]]:
            return [found for signed in records if (found := self._check_node(signed, from_node))]

        found = verified() if len(records) <= INLINE_CHECKS else await asyncio.to_thread(verified)
        now = asyncio.get_running_loop().time()
        for _, record, _ in found:
            if record.id == self._identity.node_id:
                self._own.outlived(record)
        for signed, record, peer in found:
            quiet = self._members.is_quiet(record)
            if self._members.put(signed, record, peer, now):
                learned.nodes.add(record.id)
                learned.quiet |= {record.id} if quiet else set()

    def _check_node(self, signed: SignedNode, from_node: str) -> tuple[SignedNode, NodeRecord, Peer] | None:
        if len(signed.payload) > MAX_RECORD:
            log.warning("node %s passed on a record that is too large", from_node[:8])
            return None
        try:
            record = msgspec.json.decode(signed.payload, type=NodeRecord)
            if record.id != self._identity.node_id and not self._members.is_news(record):
                return None
            peer = self._identity.verify_node(signed)
            if peer.node_id != record.id:
                raise IntegrityFailed(f"node {peer.node_id[:8]} signed a record of node {record.id[:8]}")
        except (CachedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.debug("node %s passed on a bad record: %s", from_node[:8], error)
            return None
        return signed, record, peer

    def _take_beats(self, beats: list[AgedBeat], from_node: str) -> set[str]:
        now = asyncio.get_running_loop().time()
        turned: set[str] = set()
        newest = {
            beat.node_id: (beat, age) for beat, age in beats
        }  # one check a node, however many beats are told
        for beat, age in newest.values():
            member = self._members.get(beat.node_id)
            if member is None or not self._members.wants_beat(beat):
                continue
            try:
                self._identity.verify_beat(beat, member.signed.certificate)
            except IntegrityFailed as error:
                log.debug("node %s passed on a bad beat: %s", from_node[:8], error)
                continue
            if self._members.put_beat(beat, age, now):
                turned.add(beat.node_id)
        return turned

    async def _take_sets(self, records: list[SignedRecord], from_node: str) -> set[str]:
        before = self._book.known()
        marks = {digest(signed): signed for signed in records[:MAX_SETS]}
        known = {mark for _, mark in before.values()} if marks else set()
        new = [signed for mark, signed in marks.items() if mark not in known and mark not in self._rejected]

        def verified() -> list[SignedRecord]:
            return [signed for signed in new if self._check_set(signed, from_node)]

        good = verified() if len(new) <= INLINE_CHECKS else await asyncio.to_thread(verified)
        if not good:
            return set()
        ids = {signed.record().id for signed in good}
        old = {set_id: before.get(set_id) for set_id in ids}
        await self._book.take(good, from_node)
        after = self._book.known()
        return {set_id for set_id in ids if after.get(set_id) != old[set_id]}

    def _check_set(self, signed: SignedRecord, from_node: str) -> bool:
        try:
            self._identity.verify(signed)
        except CachedError as error:
            log.warning("node %s passed on a set record that is not believed: %s", from_node[:8], error)
            if len(self._rejected) >= MAX_REJECTED:
                self._rejected.pop(next(iter(self._rejected)))
            self._rejected[digest(signed)] = None
            return False
        return True

    async def _on_swap(self, peer: Peer, body: dict[str, Any]) -> Any:
        question = msgspec.convert(body, Question)
        compared = self._members.compare(self._own.own_row(), question.rows)
        known = self._book.known()
        groups = setsync.differing(setsync.summary(known), question.sums)
        news = self.news(compared.give_nodes, compared.give_beats, [])
        answer = Answer(
            nodes=news.nodes,
            beats=news.beats,
            want_nodes=compared.want_nodes,
            want_beats=compared.want_beats,
            groups=groups,
            listing=setsync.listing(known, groups),
        )
        if question.revocations < self._identity.revocation_number:
            answer.revocations = self._identity.revocations
        return answer

    async def _on_give(self, peer: Peer, body: dict[str, Any]) -> Any:
        news = msgspec.convert(body, News)
        await self.take(news, peer.node_id, fresh=False)
        return News(sets=_fit(self._book.give(news.want_sets[:MAX_SETS])))

    async def _on_rumour(self, peer: Peer, body: dict[str, Any]) -> Any:
        news = msgspec.convert(body, News)
        await self.take(news, peer.node_id, fresh=True)
        return News(want_nodes=self._missing(news.rows))

    def _missing(self, rows: list[Row]) -> list[str]:
        """Return of whom a newer record can be had that has not been asked for just now."""
        now = asyncio.get_running_loop().time()
        self._asked = {row: at for row, at in self._asked.items() if now - at < ASK_AGAIN}
        missing = [row for row in rows if self._members.outdated(row) and _record(row) not in self._asked]
        missing = missing[:MAX_WANTED]
        self._asked |= {_record(row): now for row in missing}
        return [row[0] for row in missing]


def _record(row: Row) -> Row:
    """Return a row without its beat."""
    return (*row[:3], 0)


def _fit(records: list[Signed]) -> list[Signed]:
    room = MAX_MESSAGE
    for number, signed in enumerate(records):
        room -= len(signed.payload) * 4 // 3 + 2048
        if room < 0 and number:
            return records[:number]
    return records


def _read(value: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise IntegrityFailed(f"a peer's answer cannot be read: {error}") from None

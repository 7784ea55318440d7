"""One swarm fetch, from the first connection to the last piece.

The receiver's half of the claims: it asks the source only for pieces that it has claimed, other members for
what they have, and drops the source when its share is done. When the source or its daemon is gone, everybody
asks everybody. The rules are in `partition` and `mesh`; this drives libtorrent by them, a few times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from cached.errors import CachedError, NoSource
from cached.replication import mesh, partition, queues
from cached.replication.appetite import Appetite
from cached.replication.members import NOBODY, Members
from cached.replication.session import Session
from cached.replication.stuck import Rare
from cached.replication.torrent import Neighbourhood, Pieces, Torrent
from cached.replication.transfer import Call, FetchJob, Holders

log = logging.getLogger(__name__)

_DIAL_EVERY = 0.5
#: The same in the first second, when members that are dialled may not have the torrent yet.
_DIAL_AT_FIRST = 0.1
#: Between two looks at who is there, and the same in the first second.
_REFRESH_EVERY = 0.25
_REFRESH_AT_FIRST = 0.05
_RENEW_EVERY = 2.0
#: Who wants nothing of the source says so now and then, lest what it has counts as lost.
_STAY_KNOWN = 3.0
_MEASURE_EVERY = 0.25
#: Seconds between two looks at who is connected, and at what has come from whom, while nobody comes or goes.
_MEET_EVERY = 0.5
#: Between claims, at least.
_CLAIM_EVERY = 0.01
#: Seconds without the source, or without an answer to a claim, after which claims do not rule any more.
_SOURCE_GRACE = 3.0
#: Seconds that a late joiner gives other complete holders to answer, before it asks the source.
_OTHERS_FIRST = 1.0
_MANY_PIECES = 4096


class Fetch:
    """Brings one torrent, added and waiting, to completion."""

    def __init__(
        self,
        *,
        session: Session,
        torrent: Torrent,
        job: FetchJob,
        holders: Holders,
        source: str,
        node_id: str,
        reachable: bool,
        call: Call,
        patience: float,
        joined: Mapping[str, str] = NOBODY,
        round_trip: Callable[[str], float] = lambda _peer: 0.0,
    ) -> None:
        self._session = session
        self._torrent = torrent
        self._job = job
        self._source = source
        self._call = call
        self._patience = patience
        self._round_trip = round_trip
        self._members = Members(
            torrent=torrent,
            holders=holders,
            source=source,
            node_id=node_id,
            reachable=reachable,
            port=session.port,
            call=call,
            receivers=job.receivers,
            joined=joined,
            hurry=session.hurry,
        )
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        now = self._loop.time()
        self._started = self._moved_at = self._source_seen = self._claim_answered = now
        self._measured = self._claimed_at = self._looked = self._met_at = self._refreshed = 0.0
        self._flows: dict[tuple[str, int], int] = {}
        self._from_source = self._from_source_before = self._had = 0
        #: Seconds in which a piece's bytes come, of late: others get theirs as often.
        self._piece_takes = 0.0
        self._source_queue = queues.source_queue(0.0, job.receivers)
        # Files begin with a piece of their own: of many small ones most pieces are smaller than the rest.
        self._mean_piece = max(1, sum(torrent.layout.piece_sizes) // len(torrent.layout.piece_sizes))
        self._window = queues.window(self._source_queue, self._mean_piece, 0.0)
        self._priorities = [0] * len(torrent.layout.piece_sizes)
        self._pending = self._alone = self._told = 0
        self._rare, self._appetite = Rare(), Appetite()
        self._claiming = False
        self._dropped = False

    async def run(self) -> None:
        """Return when all pieces are there and verified.

        Raises `NoSource` when nothing has come for a while and nobody is left who could send it, and what the
        disk says.
        """
        try:
            await self._learn()
            await self._members.settle(_OTHERS_FIRST)
            await self._begin()
            while not self._torrent.complete:
                await self._step()
                await self._pause()
        finally:
            await self._end_tasks()
            await self._members.close()
            self._session.fetched(self._torrent)
            self._torrent.addresses = set()
        self._report()

    async def _begin(self) -> None:
        """Dial, with something to ask for: libtorrent dials nobody for a torrent that wants nothing."""
        lacking = ~self._torrent.have & ((1 << len(self._priorities)) - 1)
        if self._source in self._members.joined and not self._others_first(self._started):
            await self._claim(lacking, stalled=False)
            # All of it has left the source: others have it, though nobody is connected yet.
            self._dropped = self._claim_answered > self._started and not self._pending
        if not self._pending:
            self._prioritize([1] * len(self._priorities))
        self._dial()
        self._torrent.handle.resume()

    async def _step(self) -> None:
        if self._torrent.error is not None:
            raise self._torrent.error
        now = self._loop.time()
        self._pending &= ~self._torrent.have
        if now - self._looked >= self._tick():
            self._looked = now
            await self._refresh(now)
            await self._look()
            if now - self._members.dialled_at >= (_DIAL_AT_FIRST if self._fresh(now) else _DIAL_EVERY):
                self._dial()
            self._report()
            self._tell_what_came()
            self._give_up_when_hopeless(now)
        self._consider_claiming(now)

    async def _refresh(self, now: float) -> None:
        if now - self._refreshed >= (_REFRESH_AT_FIRST if self._fresh(now) else _REFRESH_EVERY):
            self._refreshed = now
            await self._learn()

    async def _learn(self) -> None:
        """Learn who is there; who connects from now on shares what may wait here with all of them."""
        await self._members.refresh()
        distance = queues.distance(map(self._round_trip, self._members.chosen))
        self._session.advertise(self._job.content, queues.member_queue(distance, self._members.receivers()))

    def _stuck(self) -> int:
        """Return the pieces that get on nowhere, while that costs anything."""
        return self._rare.stuck if self._appetite.hungry else 0

    def _fresh(self, now: float) -> bool:
        return now - self._started < 1.0

    def _tick(self) -> float:
        if self._fresh(self._loop.time()):
            return 0.02
        if len(self._priorities) > _MANY_PIECES:
            return 0.25
        return min(max(self._piece_takes, 0.1), 0.25)

    async def _pause(self) -> None:
        self._torrent.news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._torrent.news.wait(), self._tick())
        await asyncio.sleep(0.005)

    def _dial(self) -> None:
        self._members.dial(without_source=self._dropped or self._others_first(self._loop.time()))

    # What is going on

    async def _look(self) -> None:
        if self._torrent.stirred or self._loop.time() - self._met_at >= _MEET_EVERY:
            pieces = await self._meet()
        else:
            pieces = await self._torrent.pieces()
        now = self._loop.time()
        sources = int(self._source in self._members.connected)
        if sources or self._dropped:
            self._source_seen = now
        if len(pieces.availability) != len(self._priorities):
            return  # libtorrent does not count any more: all is there
        self._rare.see(pieces.availability, sources, now)
        wanted, self._alone = partition.priorities(
            availability=pieces.availability,
            sources=sources,
            have=self._torrent.have,
            pending=self._pending,
            gated=self._gated(now),
            begun=pieces.begun,
            members=len(self._members.connected),
        )
        self._prioritize(wanted)

    async def _meet(self) -> Pieces:
        """Look who is connected; return which piece how many of them have."""
        seen = await self._torrent.look()
        self._met_at = self._loop.time()
        names = {mesh.peer_id(node_id): node_id for node_id in (*self._members.known, self._source)}
        self._account(seen, names)
        self._members.seen(
            {names[one.peer_id]: one.endpoint[0] for one in seen.connections if one.peer_id in names}
        )
        self._measure(self._met_at)
        if any(one.nameless for one in seen.connections):
            self._torrent.stirred = True
        return seen.pieces

    def _account(self, seen: Neighbourhood, names: dict[str, str]) -> None:
        by_source, flows = self._job.progress.by_source, {}
        for one in seen.connections:
            before = self._flows.get(one.endpoint, 0)
            more = one.downloaded - before if one.downloaded >= before else one.downloaded
            flows[one.endpoint] = one.downloaded
            node_id = names.get(one.peer_id)
            if more:
                self._moved_at = self._loop.time()
            if more and node_id:
                by_source[node_id] = by_source.get(node_id, 0) + more
                self._from_source += more if node_id == self._source else 0
        self._flows = flows

    def _measure(self, now: float) -> None:
        """Set the window by what has come from the source of late."""
        past = now - self._measured
        if past < _MEASURE_EVERY:
            return
        if self._measured:
            from_source = (self._from_source - self._from_source_before) / past
            self._window = queues.window(self._source_queue, self._mean_piece, from_source)
            came = self._torrent.bytes_have - self._had
            self._piece_takes = self._mean_piece * past / came if came > 0 else 0.0
        self._appetite.see(self._torrent.bytes_have, now)
        self._had = self._torrent.bytes_have
        self._from_source_before, self._measured = self._from_source, now

    def _prioritize(self, wanted: list[int]) -> None:
        changed = [
            (piece, level)
            for piece, (level, before) in enumerate(zip(wanted, self._priorities, strict=True))
            if level != before
        ]
        if changed:
            self._torrent.handle.prioritize_pieces(changed)
            self._priorities = wanted

    def _stalled(self, now: float) -> bool:
        return now - self._moved_at >= partition.STALL

    def _report(self) -> None:
        progress = self._job.progress
        progress.bytes_present = self._torrent.bytes_have
        progress.hash_failures = self._torrent.hash_failures
        now = self._loop.time()
        if not self._stalled(now) or self._torrent.complete:
            progress.reason = ""
        elif not self._members.chosen:
            progress.reason = "no other node is known to have it"
        elif not self._members.connected:
            progress.reason = f"no holder is reachable, {len(self._members.chosen)} tried"
        else:
            missing = len(self._priorities) - self._torrent.have.bit_count()
            there = len(self._members.connected)
            progress.reason = f"{there} members are connected but send nothing; {missing} pieces are missing"

    def _tell_what_came(self) -> None:
        if self._job.arrived is not None and (new := self._torrent.have & ~self._told):
            self._told |= new
            places = self._torrent.layout.piece_places
            self._job.arrived([place for piece in partition.pieces_in(new) if (place := places[piece])[0]])

    def _give_up_when_hopeless(self, now: float) -> None:
        """Nothing came for long, and nobody is connected who has it all; who has gets three times as long."""
        chosen = self._members.known
        holder = any(chosen[key].complete for key in self._members.connected if key in chosen)
        borne = self._job.patience(self._patience) if self._stalled(now) else self._patience
        if now - self._moved_at > borne * (3 if holder else 1):
            raise NoSource(
                f"nothing arrived for {now - self._moved_at:.0f} s: {self._job.progress.reason}",
                hint="check that a holder is alive and that its BitTorrent port can be reached",
                content=self._job.content,
            )

    # Claims

    def _gated(self, now: float) -> bool:
        return (
            now - self._source_seen < _SOURCE_GRACE
            and now - self._claim_answered < _SOURCE_GRACE + _RENEW_EVERY
        )

    def _others_first(self, now: float) -> bool:
        """Other complete holders are about to answer: what they have need not be claimed."""
        return now - self._started < _OTHERS_FIRST and any(
            member.complete
            and member.reachable
            and key != self._source
            and key not in self._members.connected
            for key, member in self._members.chosen.items()
        )

    def _consider_claiming(self, now: float) -> None:
        if now - self._source_seen >= partition.STALL:
            self._pending = 0  # no way to the source: others are to have these pieces
        wanted = (self._alone | self._stuck()) & ~self._torrent.have & ~self._pending
        if not (wanted or self._pending):
            self._claim_answered = now
            self._leave_source()
            if now - self._claimed_at >= _STAY_KNOWN and not self._claiming:
                self._claiming, self._claimed_at = True, now
                self._spawn(self._claim(0, stalled=False))
            return
        low = self._pending.bit_count() * 2 <= self._window
        due = now - self._claimed_at >= (_RENEW_EVERY if self._dropped or not low else _CLAIM_EVERY)
        ready = self._dropped or self._source in self._members.connected or bool(self._pending)
        if due and ready and not self._claiming and not self._others_first(now):
            self._claiming, self._claimed_at = True, now
            self._spawn(self._claim(wanted, stalled=self._stalled(now)))
        elif not ready:
            self._claim_answered = now

    async def _claim(self, wanted: int, *, stalled: bool) -> None:
        try:
            answer = await self._call(
                self._source,
                "swarm.claim",
                {
                    "content": self._job.content,
                    "wanted": f"{wanted:x}",
                    "pending": f"{self._pending:x}",
                    "have": f"{self._torrent.have:x}",
                    "count": max(0, self._window - self._pending.bit_count()),
                    "stuck": f"{self._stuck():x}",
                    "stalled": stalled,
                    "receivers": self._members.receivers(),
                },
            )
        except CachedError as error:
            log.debug("the source does not answer claims: %s", error)
            return
        finally:
            self._claiming = False
        self._claim_answered = self._loop.time()
        self._source_queue = int(answer["queue"])
        granted = partition.bits_of(answer["pieces"]) & ~self._torrent.have
        self._pending |= granted
        if granted:
            self._return_to_source()
            wanted_now = list(self._priorities)
            for piece in partition.pieces_in(granted):
                wanted_now[piece] = partition.CLAIMED
            self._prioritize(wanted_now)
        elif stalled:
            self._return_to_source()
        elif not self._pending:
            self._leave_source()

    def _leave_source(self) -> None:
        """Our share is done: what is left comes from the others, and the source's uplink is theirs."""
        address = self._members.address_of_source()
        if address and not self._dropped and len(self._members.connected) >= 2:
            self._dropped = self._session.drop(self._torrent, address)

    def _return_to_source(self) -> None:
        if self._dropped:
            self._dropped = False
            self._session.readmit(self._torrent)
            self._dial()

    # Tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

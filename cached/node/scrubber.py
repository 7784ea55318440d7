"""The scrubber: verifies everything that lies here again and again, gently, and repairs what was found damaged.

What is due and how fast is a rule (`leases/upkeep.py`); what is damaged is kept by `node/damage.py`; repairs are those
of `node/verify.py`, tried again whenever a live node tells of the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cached.errors import Busy, CachedError, Forbidden
from cached.leases import upkeep
from cached.node import damage, memory, verify
from cached.node.node import Node
from cached.peers.records import Peer
from cached.precedence import IDLE, step_back
from cached.sets.set import Tier
from cached.storage import scrub
from cached.storage.disk import Store
from cached.storage.scrub import Damage

#: Seconds between two looks at what is due, and between two at whether a pause is over.
ROUND = 2.0
PAUSE = 0.2
#: Seconds after a verification during which nobody's word makes a content be read again.
RECENT = 60.0


class Scrubber:
    """The upkeep of one node's contents."""

    def __init__(self, node: Node) -> None:
        self._node = node
        #: By content and tier: repairs that failed in a row, and the monotonic time of the next.
        self._attempts: dict[tuple[str, Tier], tuple[int, float]] = {}
        self._reader = ThreadPoolExecutor(
            1, thread_name_prefix="scrubber", initializer=step_back, initargs=(IDLE,)
        )

    async def run(self) -> None:
        """Repair and verify until cancelled."""
        while True:
            await asyncio.sleep(ROUND)
            try:
                self.repair(time.monotonic())
                self.verify_next()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next round looks again
                self._node.counters.background_failed("scrubber", error)

    def close(self) -> None:
        """Read no more; the node is draining by now, which ends what is being read."""
        self._reader.shutdown(cancel_futures=True)

    # Repair

    def repair(self, now: float) -> None:
        """Start the repairs that are due: of damaged contents that a live node tells of."""
        for content, tier in [key for key in self._attempts if key not in self._node.shelf.withheld]:
            del self._attempts[(content, tier)]
        for content, tier in sorted(self._node.shelf.withheld):
            _, due = self._attempts.get((content, tier), (0, 0.0))
            copied = tier == "memory" and (content, "disk") in self._node.shelf.contents
            if now >= due and not self._node.draining and (copied or verify.has_holder(self._node, content)):
                self._node.fly(f"heal {content}", partial(self._repair, content, tier, copied=copied))

    async def _repair(self, content: str, tier: Tier, *, copied: bool) -> None:
        key = (content, tier)
        try:
            if copied:
                await self._copy_again(content)
            else:
                store = self._node.stores[tier]
                await verify.heal(self._node, store, content, await verify.scan(self._node, store, content))
        except CachedError as error:
            self._node.counters.note("scrub.not_repaired", error.message, content=content[:12])
        if key in self._node.shelf.withheld:
            attempts = self._attempts.get(key, (0, 0.0))[0] + 1
            self._attempts[key] = (attempts, time.monotonic() + upkeep.retry_after(attempts))

    async def _copy_again(self, content: str) -> None:
        """Make the memory copy anew from the disk's, once nobody reads from it."""
        node = self._node
        if await memory.evict(node, content):
            owner = next(
                iter(node.shelf.replicas[one].owner for one in node.shelf.sets_of_content(content)), ""
            )
            await memory.ensure(node, content, owner)

    # Verification

    def verify_next(self) -> None:
        """Verify what is due next, unless that is going on."""
        node = self._node
        if "scrub" in node.flights or node.draining or self._is_busy():
            return
        here = [self._verified(content, tier) for content, tier in self._due_contents()]
        due = upkeep.next_due(here, node.now().wall)
        if due is not None:
            store = node.stores["memory" if due.tier == "memory" else "disk"]
            node.fly(
                "scrub", lambda: self._verify(store, due.content, upkeep.rate(sum(one.bytes for one in here)))
            )

    def _due_contents(self) -> list[tuple[str, Tier]]:
        """Return what can be verified: what is damaged already is verified by each repair."""
        shelf = self._node.shelf
        return [
            key
            for key, row in shelf.contents.items()
            if row.state == "STABLE" and key not in shelf.withheld and key[1] in self._node.stores
        ]

    def _verified(self, content: str, tier: Tier) -> upkeep.Verified:
        shelf = self._node.shelf
        check = shelf.checks.get((content, tier))
        if check is not None:
            wall = check.wall
        else:  # it was verified when it came
            rows = [shelf.replicas[one] for one in shelf.sets_of_content(content)]
            wall = min((row.created_wall for row in rows), default=0.0)
        return upkeep.Verified(
            content=content, tier=tier, bytes=shelf.contents[(content, tier)].bytes, wall=wall
        )

    async def _verify(self, store: Store, content: str, rate: int | None) -> None:
        """Verify one content: gently at a rate, or without one as fast as a suspicion deserves."""
        node = self._node
        try:
            damages = await self._scan(store, content, rate)
            node.counters.add("scrubbed")
            whole = await damage.settle(node, store, content, damages)
            if damages and whole:  # modes, strays, leaf digests: mended on the spot
                await verify.heal(node, store, content, damages)
        except CachedError as error:
            if not node.draining:
                node.counters.note("scrub.failed", error.message, content=content[:12])

    async def _scan(self, store: Store, content: str, rate: int | None) -> list[Damage]:
        if rate is None:
            return await verify.scan(self._node, store, content, rate=upkeep.FAST, fresh=True)
        read = partial(self._read, store, content, rate)
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def _read(self, store: Store, content: str, rate: int) -> list[Damage]:
        def go_on(_: int) -> None:
            while self._is_busy() and not self._node.draining:
                time.sleep(PAUSE)
            if self._node.draining:
                raise Busy("the node is stopping")

        return scrub.verify(store, content, rate=rate, fresh=True, progress=go_on)

    def _is_busy(self) -> bool:
        return bool(self._node.transfers or self._node.creations or self._node.jobs.waiting)

    # What others noticed

    def suspect(self, content: str, reason: str, event: str = "scrub.suspected") -> None:
        """Verify a content soon because somebody says that it is damaged; not again when that has just been done."""
        node = self._node
        node.counters.note(event, reason, content=content[:12])
        for tier, store in node.stores.items():
            row, check = node.shelf.contents.get((content, tier)), node.shelf.checks.get((content, tier))
            recent = check is not None and 0 <= node.now().wall - check.wall < RECENT
            if row is not None and row.state == "STABLE" and not recent and not node.draining:
                node.fly(f"suspect {tier} {content}", partial(self._verify, store, content, None))

    async def doubted(self, peer: Peer, content: str) -> None:
        """Take in that a peer has received wrong bytes from here. Raises `Forbidden` for a peer that may have none."""
        if not self._node.consents.allowed(peer.node_id, content):
            raise Forbidden("this node has not agreed to send you that content")
        self.suspect(content, f"node {peer.node_id[:8]} received bytes that do not match")

    def tell(self, content: str, path: str, *, holder: str) -> None:
        """Tell a holder that its bytes do not match; one that does not listen finds out by itself."""
        self._node.counters.note("direct.corrupt", path, content=content[:12], node=holder[:8])

        async def call() -> None:
            with contextlib.suppress(CachedError):
                await self._node.link.call(holder, "source.doubt", {"content": content}, 5.0)

        if not self._node.draining:
            self._node.fly(f"doubt {holder} {content}", call)

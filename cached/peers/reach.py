"""Can this node be dialled? It asks its peers to try, and keeps polls open to them when they cannot.

A peer that is asked only completes a handshake with the address and compares the node id: it sends nothing
there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from cached.errors import Busy, CachedError, PeerUnreachable, UsageError
from cached.peers.link import Link
from cached.peers.records import Peer

log = logging.getLogger(__name__)

ASKED = 3
#: Longer than a dial takes there (`client.CONNECT_SECONDS`).
ASK_SECONDS = 6.0
#: Seconds until the question is asked again: sooner while the answer is no.
AGAIN_YES = 300.0
AGAIN_NO = 30.0
#: Peers to which polls are kept open.
MAX_POLLS = 64
MAX_DIALS = 16


class Reach:
    """Finds out whether peers can dial `address`, and says so by `changed`."""

    def __init__(self, link: Link, changed: Callable[[], None]) -> None:
        self._link = link
        self._changed = changed
        self._asked_address = ""
        self._ask_at = 0.0
        self._dials = 0
        self._polled: frozenset[str] = frozenset()
        #: True until a peer has tried in vain.
        self.reachable = True
        link.handle("peers.dialback", self._on_dialback)

    async def step(self, address: str, peers: list[str]) -> None:
        """Ask when it is time; `peers` are the live nodes that can be dialled. Never raises."""
        now = asyncio.get_running_loop().time()
        if peers and (address != self._asked_address or now >= self._ask_at):
            verdict = await self._ask(address, random.sample(peers, min(ASKED, len(peers))))
            if verdict is not None:
                self._asked_address = address
                self._ask_at = now + (AGAIN_YES if verdict else AGAIN_NO)
                self._judge(verdict, address)
        self._poll(peers)

    def _judge(self, verdict: bool, address: str) -> None:
        if verdict == self.reachable:
            return
        self.reachable = verdict
        if verdict:
            log.info("peers can dial this node at %s", address)
        else:
            log.warning("peers cannot dial this node at %s: it keeps polls open to them instead", address)
        self._changed()

    def _poll(self, peers: list[str]) -> None:
        wanted = frozenset() if self.reachable else frozenset(peers)
        if len(wanted) > MAX_POLLS:
            stay = self._polled & wanted
            wanted = stay | frozenset(random.sample(sorted(wanted - stay), MAX_POLLS - len(stay)))
        self._polled = wanted
        self._link.keep_polls(wanted)

    async def _ask(self, address: str, peers: list[str]) -> bool | None:
        async def ask(node_id: str) -> bool | None:
            try:
                answer = await self._link.call(node_id, "peers.dialback", {"address": address}, ASK_SECONDS)
                return bool(answer["reachable"])
            except (CachedError, KeyError, TypeError):
                return None

        answers = [one for one in await asyncio.gather(*map(ask, peers)) if one is not None]
        return any(answers) if answers else None

    async def _on_dialback(self, peer: Peer, body: dict[str, Any]) -> dict[str, Any]:
        address = body.get("address")
        if not isinstance(address, str):
            raise UsageError("dialback needs an address")
        if self._dials >= MAX_DIALS:
            raise Busy("too many addresses are being tried")
        self._dials += 1
        try:
            found = await self._link.who_listens(address)
        except PeerUnreachable:
            return {"reachable": False}  # and not why: nobody explores this node's network through it
        finally:
            self._dials -= 1
        return {"reachable": found == peer.node_id}

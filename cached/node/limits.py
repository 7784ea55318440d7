"""Limits: how many bytes per second this node's links may take, changed while it runs; and keeping to them.

Streams (direct, parts of objects, metadata) wait for their turn in the link's budget. The swarm limits itself: a few
times a second it is given what the streams leave, and what it moved is booked in their budget. While a job waits
here for bytes, everything that no job waits for is held back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from cached import wire
from cached.budget import TRICKLE, Budget
from cached.errors import Forbidden
from cached.node.caller import Caller
from cached.node.node import Node
from cached.replication.throttle import share

#: Seconds between two looks at what the swarm and the streams take.
TICK = 0.25


async def show(node: Node, _caller: Caller) -> wire.LimitsView:
    """Return the limits that hold now."""
    return view(node)


async def change(node: Node, caller: Caller, changes: Mapping[str, int | None]) -> wire.LimitsView:
    """Change `upload` or `download`, in bytes per second or None for no limit, until the node is started again.

    Raises `Forbidden` for those who are no administrators of this node.
    """
    if not caller.admin:
        raise Forbidden(
            "only administrators of this node may change its limits", hint="[policy] admins names them"
        )
    for name, budget in _budgets(node).items():
        if name in changes:
            budget.limit(changes[name])
    node.jobs.stirred.set()
    node.counters.note("limits.changed", _in_words(node), user=caller.user)
    return view(node)


def view(node: Node) -> wire.LimitsView:
    """Return the limits that hold now, and whether they are those of the configuration."""
    configured = node.config.replication
    upload, download = node.link.upload.rate, node.link.download.rate
    return wire.LimitsView(
        upload_bytes_per_second=upload,
        download_bytes_per_second=download,
        configured=(upload, download) == (configured.upload_limit, configured.download_limit),
    )


async def run(node: Node) -> None:
    """Keep the swarm within its share until cancelled; at rest while nothing is limited and nobody waits."""
    watches = [_Watch(budget) for budget in _budgets(node).values()]
    while True:
        node.jobs.stirred.clear()
        try:
            await _steer(node, watches)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look is taken all the same
            node.counters.background_failed("limits", error)
        busy = node.jobs.waiting or any(watch.budget.rate is not None for watch in watches)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(node.jobs.stirred.wait(), TICK if busy else None)


def _budgets(node: Node) -> dict[str, Budget]:
    return {"upload": node.link.upload, "download": node.link.download}


def _held(node: Node) -> set[str]:
    """Return the contents on their way here for which no job waits, while one waits for something else."""
    if not node.jobs.waiting:
        return set()
    flights = list(node.transfers.values())
    wanted = {flight.content for flight in flights if node.jobs.want(flight.set_id)}
    return {flight.content for flight in flights} - wanted


async def _steer(node: Node, watches: list[_Watch]) -> None:
    node.swarm.throttle.hold(_held(node), TRICKLE)
    if any(watch.budget.rate is not None for watch in watches):
        moved = await node.swarm.throttle.moved()
        for watch, total in zip(watches, moved, strict=True):
            watch.see(asyncio.get_running_loop().time(), total)
    node.swarm.throttle.limit(*(watch.share() for watch in watches))


@dataclass
class _Watch:
    """What one direction took between two looks."""

    budget: Budget
    seen_at: float = 0.0
    swarm: int = 0
    streams: int = 0
    #: Bytes per second of streams, of late.
    rate: float = 0.0

    def see(self, now: float, swarm: int) -> None:
        """Book what the swarm has moved, by its own count in all."""
        past, taken = now - self.seen_at, self.budget.taken
        if 0 < past < 10 * TICK:
            self.budget.spend(swarm - self.swarm if swarm >= self.swarm else swarm, past)
            self.rate = (taken - self.streams) / past
        self.seen_at, self.swarm, self.streams = now, swarm, taken

    def share(self) -> int | None:
        """Return what the swarm may take from now on."""
        return share(self.budget.rate, self.rate, waiting=self.budget.waiting)


def _in_words(node: Node) -> str:
    return ", ".join(
        f"{name} {'without limit' if budget.rate is None else f'{budget.rate} bytes/s'}"
        for name, budget in _budgets(node).items()
    )

"""The object cache assembled: its tiers, what it asks other nodes and Cloud Storage, and what keeps it in order."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import msgspec

from cached.config import Config
from cached.daemon.ground import Ground
from cached.node import object_events
from cached.node.counters import Counters
from cached.node.space import Space
from cached.node.trust import domain_of
from cached.objects.account import Account
from cached.objects.admission import Tier
from cached.objects.cache import ObjectCache, Shared
from cached.objects.freshness import Freshness
from cached.objects.homes import Homes
from cached.objects.neighbours import Neighbours, PartWanted
from cached.objects.tiers import Tiers
from cached.origin.origin import Origin
from cached.peers.directory import Directory
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.storage.objects import ObjectStore

#: Seconds after which a node has noticed that it does not hear of others any more, with some to spare.
_NOTICED: Final = 20.0
#: Seconds between two looks at who lives.
_LOOK: Final = 0.25


def assemble(
    ground: Ground,
    link: Link,
    directory: Directory,
    origin: Origin,
    space: Space,
    counters: Counters,
    undo: contextlib.AsyncExitStack,
) -> ObjectCache:
    """Return the cache; nothing is asked before somebody wants an object. Raises `BadConfig`."""
    config, identity, stores = ground.config, ground.identity, ground.stores
    caps: dict[Tier, int] = {
        tier: cap
        for tier, cap in (("memory", config.objects.memory), ("disk", config.objects.disk))
        if cap is not None and tier in stores
    }
    tiers = Tiers(
        {tier: ObjectStore(stores[tier].root) for tier in caps},
        caps,
        ground.clock.now().boot_id,
        object_events.observer(counters),
        headroom=space.left_over,
    )
    space.evictable = tiers.taken
    space.evict = tiers.give_way
    here = _Here()
    neighbours = Neighbours(
        me=identity.node_id,
        present=partial(_present, identity, directory),
        missing=partial(missing, directory),
        in_touch=Sight(directory).in_touch,
        call=link.call,
        fetch=partial(_fetch, identity.node_id, link, here),
    )
    homes = Homes(
        tiers,
        neighbours,
        count=counters.add,
        new_id=lambda: secrets.token_hex(16),
        now=time.monotonic,
        wall=time.time,
        block=config.objects.block,
    )
    here.homes = homes
    cache = ObjectCache(
        origin=origin,
        tiers=tiers,
        freshness=Freshness(config.objects.freshness),
        neighbours=neighbours,
        homes=homes,
        account=Account(),
        shared=_shared(config, identity, counters, undo),
        sharing=config.objects.sharing,
        block=config.objects.block,
        now=time.monotonic,
        wall=time.time,
        count=counters.add,
        note=counters.note,
    )
    undo.push_async_callback(cache.close)
    return cache


def _present(identity: Identity, directory: Directory, user: str) -> list[str]:
    """Return the live nodes that may hold copies for a user, this one among them; for nobody in particular, all."""
    others = [
        entry.record.id
        for entry in directory.nodes()
        if entry.alive and (not user or domain_of(user) in entry.domains)
    ]
    return [identity.node_id, *(one for one in others if one != identity.node_id)]


def missing(directory: Directory, seconds: float) -> bool:
    """Tell whether a node that is not seen any more may have served its users so many seconds ago.

    One that is cut off knows that itself, but perhaps later than others do: hence the longer time.
    """
    return any(
        not (entry.alive or entry.left) and entry.age < seconds + _NOTICED for entry in directory.nodes()
    )


class Sight:
    """What a node sees of the others, looked at a few times a second at most: every open asks."""

    def __init__(self, directory: Directory, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._until = float("-inf")
        self._in_touch = True

    def in_touch(self) -> bool:
        """Tell whether more than half of the nodes heard of within a day live, those left out that said goodbye."""
        now = self._clock()
        if now >= self._until:
            alive = [entry.alive for entry in self._directory.nodes() if not entry.left]
            self._in_touch = 2 * sum(alive) > len(alive) or not alive
            self._until = now + _LOOK
        return self._in_touch


def _fetch(
    me: str, link: Link, here: _Here, node: str, stream: str, query: dict[str, Any], silence: float
) -> AsyncIterator[bytes]:
    if node == me:
        return here.parts(msgspec.convert(query, PartWanted))
    return link.fetch(node, stream, {**query, "first": True}, silence)


class _Here:
    """The parts of this node, which its own reads take without a connection; bound once there is a home."""

    homes: Homes

    def parts(self, wanted: PartWanted) -> AsyncIterator[bytes]:
        return self.homes.parts(wanted)


def _shared(
    config: Config, identity: Identity, counters: Counters, undo: contextlib.AsyncExitStack
) -> Shared | None:
    """Return the tier that the nodes share, where one is configured; its library is loaded for nobody else."""
    if not config.objects.redis:
        return None
    from cached.objects.redis import RedisTier, check

    check(config.objects.redis)
    tier = RedisTier(
        config.objects.redis,
        identity.cluster_secret,
        count=counters.add,
        note=counters.note,
    )
    undo.push_async_callback(tier.close)
    tier.begin()
    return tier

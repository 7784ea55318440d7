"""What a node stands on before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from cached import machine
from cached.catalog.sqlite import Catalog
from cached.config import Config
from cached.node.pins import Pins
from cached.node.shelf import Shelf
from cached.peers.identity import Identity
from cached.sets.set import Tier
from cached.storage.disk import Store


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a node stands on: who it is, and what it has on disk."""

    config: Config
    clock: machine.SystemClock
    identity: Identity
    catalog: Catalog
    stores: dict[Tier, Store]
    shelf: Shelf
    pins: Pins

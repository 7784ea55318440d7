"""What a node has on disk, opened and locked: its state, its catalog, its stores, its pins."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os

from cached import machine
from cached.catalog.errors import CatalogLost
from cached.catalog.sqlite import Catalog, set_aside
from cached.config import Config
from cached.errors import BadConfig, Busy, CachedError
from cached.node.pins import Pins, is_alive
from cached.sets.set import Tier
from cached.storage.disk import Store
from cached.storage.pinlog import PinLog

log = logging.getLogger("cached")


def lock_state(config: Config, undo: contextlib.AsyncExitStack) -> None:
    """Make and lock the state directory. Raises `BadConfig`, or `Busy` when another daemon has it."""
    folder = config.node.state_dir
    kind = machine.filesystem_of(folder)
    if kind in machine.NETWORK_FILESYSTEMS:
        raise BadConfig(
            f"state_dir {folder} is on {kind}, a network filesystem",
            hint="choose a local disk: metadata must survive",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadConfig(
            f"state_dir {folder} cannot be used: {error.strerror}", hint="set [node] state_dir"
        ) from error
    undo.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(
            f"another daemon runs on {folder}",
            hint="stop it, or give each --instance its own state_dir with {instance}",
        ) from None


def open_catalog(config: Config, clock: machine.SystemClock, undo: contextlib.AsyncExitStack) -> Catalog:
    """Open the catalog; one that is damaged is set aside, and a new one begun."""
    path = config.node.state_dir / "catalog.db"
    try:
        catalog = Catalog.open(path, clock)
    except CatalogLost as lost:
        aside = set_aside(path)
        log.error("catalog.lost %s kept=%s: sets are adopted again from the store", lost.message, aside)
        catalog = Catalog.open(path, clock)
    undo.callback(catalog.close)
    return catalog


def open_stores(config: Config, undo: contextlib.AsyncExitStack) -> dict[Tier, Store]:
    """Open and lock the tiers. The disk must be there; a memory tier that cannot be used is left out."""
    stores: dict[Tier, Store] = {"disk": Store(config.store.disk, "disk")}
    if config.store.memory is not None:
        stores["memory"] = Store(config.store.memory, "memory")
    for tier, store in list(stores.items()):
        try:
            store.open_lock()
        except (CachedError, OSError) as error:
            if tier == "disk":
                raise
            log.warning("memory_tier.off path=%s reason=%s", store.root, error)
            del stores[tier]
        else:
            undo.callback(store.close)
    return stores


def open_pins(config: Config, clock: machine.SystemClock, undo: contextlib.AsyncExitStack) -> Pins:
    """Return the pins that have outlived the last daemon."""
    pins = Pins(PinLog(config.node.state_dir / "pins", clock.boot_id), is_alive)
    pins.load()
    undo.callback(pins.close)
    return pins

"""One node's process, from its first part to its last: read `Daemon.start` as the list of parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from cached import machine, shapes
from cached.api.peer import PeerApi
from cached.api.peer_objects import PeerObjects
from cached.config import Config
from cached.critical import end
from cached.daemon import assembly, background, disk, doors
from cached.daemon.ground import Ground
from cached.matchmaker.pool import Matchmaker
from cached.node import acquaintances, announce, ledger, object_index, persist, receive, recover, seeding
from cached.node.node import Node
from cached.node.shelf import Shelf
from cached.peers.identity import Identity
from cached.peers.link import Link

#: Seconds that background work gets to end at a stop.
STOP_PATIENCE = 5.0


class Daemon:
    """One node's process."""

    def __init__(self, config: Config, expect: Callable[[], None] = lambda: None) -> None:
        """`expect` is called after each quick request on `data.sock`: the next one may follow at once."""
        self.config = config
        self._expect = expect
        self._undo = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self.node: Node | None = None

    async def start(self) -> None:
        """Bring everything up, from the disk to the sockets. Raises `BadConfig`, `Busy` or another `CachedError`."""
        shapes.settle()
        config, undo = self.config, self._undo
        disk.lock_state(config, undo)
        matchmaker = Matchmaker()
        undo.push_async_callback(matchmaker.close)
        checked = asyncio.create_task(announce.check(config, matchmaker))
        undo.push_async_callback(end, checked)
        ground = await self._ground()
        link = Link(ground.identity)
        undo.push_async_callback(link.close)
        port = await link.start(acquaintances.usual_address(ground.catalog, config.node.listen))
        await acquaintances.settle(ground.catalog, port)
        node, scrubber = assembly.assemble(ground, matchmaker, link, port, undo)
        self.node = node
        findings = await recover.at_start(node)
        node.space.load()
        node.bittorrent_port = await node.swarm.start(resuming={row.content for row in findings.transfers})
        undo.push_async_callback(node.swarm.close)
        PeerApi(node, doubted=scrubber.doubted).bind()
        PeerObjects(node).bind()
        await object_index.load(node)
        await ledger.begin(node)
        node.directory.publish(announce.contents(node))
        await node.directory.start()
        undo.push_async_callback(node.directory.close)
        await acquaintances.meet(node)
        await seeding.encrypt_with(node)
        node.directory.on_change(partial(background.neighbours_changed, node))
        await checked
        await receive.resume_all(node, findings.transfers)
        persist.resume_all(node)
        await doors.open_sockets(node, undo, self._expect)
        self._background = background.start(node, scrubber, findings)

    def ready(self) -> None:
        """Begin what readiness does not wait for, once it was told."""
        if self.node is not None:
            doors.start_mdns(self.node, self._undo)

    async def _ground(self) -> Ground:
        """Return what the node stands on; the state directory is locked."""
        config, clock, undo = self.config, machine.SystemClock(), self._undo
        identity = await asyncio.to_thread(
            partial(
                Identity.open,
                config.node.state_dir,
                key_file=config.cluster.key_file,
                user_domain=config.cluster.user_domain,
            )
        )
        catalog = disk.open_catalog(config, clock, undo)
        stores = disk.open_stores(config, undo)
        shelf = Shelf(catalog=catalog)
        shelf.load()
        pins = disk.open_pins(config, clock, undo)
        return Ground(
            config=config,
            clock=clock,
            identity=identity,
            catalog=catalog,
            stores=stores,
            shelf=shelf,
            pins=pins,
        )

    async def stop(self) -> None:
        """Stop in order: no new work, sockets closed, transfers paused, goodbye to the peers, everything closed."""
        node = self.node
        if node is not None:
            node.draining = True
            for creation in list(node.creations):
                await creation.abort()
            tasks = [*self._background, *node.flights.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=STOP_PATIENCE)
        await self._undo.aclose()

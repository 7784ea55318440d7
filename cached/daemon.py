"""The composition root: builds one node from its configuration, runs it, and stops it in order.

Nothing else constructs an adapter. Read `Daemon.start` as the list of parts, in the order in which they depend on
each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cached import administration, machine, notify
from cached.api import door, sockets
from cached.api.auth import Callers
from cached.api.handles import HandleServer
from cached.api.local import LocalServer
from cached.api.metrics import ApiMetrics
from cached.api.peer import PeerApi
from cached.api.verbs import Verbs
from cached.catalog.errors import CatalogLost
from cached.catalog.sqlite import Catalog, set_aside
from cached.config import Config
from cached.config.values import split_address
from cached.errors import BadConfig, Busy, CachedError
from cached.matching.ads import NodeFacts
from cached.matchmaker.pool import Matchmaker
from cached.node import (
    acquaintances,
    announce,
    book,
    create,
    drive,
    fetch,
    locate,
    match,
    memory,
    read,
    receive,
    recover,
    replicate,
    retire,
    revise,
    seeding,
    status,
    sweep,
    verify,
)
from cached.node.consents import Consents
from cached.node.counters import Counters
from cached.node.critical import end
from cached.node.metrics import NodeMetrics
from cached.node.node import Node
from cached.node.pins import Pins, is_alive
from cached.node.scrubber import Scrubber
from cached.node.shelf import Shelf
from cached.node.space import Space
from cached.peers.directory import Directory
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.peers.mdns import Mdns
from cached.replication.bittorrent import Swarm
from cached.replication.direct import Direct, DirectServer
from cached.sets.set import Tier
from cached.storage.disk import Store
from cached.storage.pinlog import PinLog

log = logging.getLogger("cached")

#: Seconds that background work gets to end at a stop.
STOP_PATIENCE = 5.0


class Daemon:
    """One node's process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._undo = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self.node: Node | None = None

    async def start(self) -> None:
        """Bring everything up, from the disk to the sockets. Raises `BadConfig`, `Busy` or another `CachedError`."""
        config, clock = self.config, machine.SystemClock()
        self._lock_state()
        identity = await asyncio.to_thread(
            partial(
                Identity.open,
                config.node.state_dir,
                key_file=config.cluster.key_file,
                user_domain=config.cluster.user_domain,
            )
        )
        catalog = self._open_catalog(clock)
        stores = self._open_stores()
        shelf = Shelf(catalog=catalog)
        shelf.load()
        pins = Pins(PinLog(config.node.state_dir / "pins", clock.boot_id), is_alive)
        pins.load()
        self._undo.callback(pins.close)
        counters, consents, records = Counters(), Consents(), book.Book()
        matchmaker = Matchmaker()
        self._undo.push_async_callback(matchmaker.close)
        checked = asyncio.create_task(announce.check(config, matchmaker))
        self._undo.push_async_callback(end, checked)
        link = Link(identity)
        self._undo.push_async_callback(link.close)
        port = await link.start(acquaintances.usual_address(catalog, config.node.listen))
        await acquaintances.settle(catalog, port)
        listen = f"{config.node.listen.rpartition(':')[0]}:{port}"
        directory = Directory(
            identity,
            link,
            records,
            name=config.node.name,
            advertise=config.node.advertise,
            seeds=dict.fromkeys([*config.cluster.peers, *acquaintances.remembered(catalog)]),
            listen=listen,
        )
        swarm = Swarm(
            node_id=identity.node_id,
            listen=config.node.bittorrent,
            scratch=config.store.disk / "packs",
            call=link.call,
            allowed=consents.allowed,
            lookup=lambda content: seeding.lookup(node, content),
            damaged=lambda content, reason: scrubber.suspect(content, reason, event="seed.damaged"),
            tls=seeding.material(identity),
            encrypted=config.replication.encryption == "tls",
            upload_limit=config.replication.upload_limit,
            reachable=lambda: directory.reachable,
            host_of=directory.host_of,
        )
        node = self.node = Node(
            config=config,
            identity=identity,
            clock=clock,
            new_id=lambda: secrets.token_hex(16),
            catalog=catalog,
            shelf=shelf,
            stores=stores,
            space=Space(
                catalog=catalog,
                shelf=shelf,
                stores=stores,
                limits={"disk": config.store.capacity, "memory": config.store.memory_capacity},
                quota=config.policy.quota,
            ),
            pins=pins,
            matchmaker=matchmaker,
            link=link,
            directory=directory,
            swarm=swarm,
            direct=Direct(
                fetch_stream=link.fetch, corrupt=lambda who, *what: scrubber.tell(*what, holder=who)
            ),
            direct_server=DirectServer(
                lookup=lambda content: seeding.served(node, content),
                allowed=consents.allowed,
                upload_limit=config.replication.upload_limit,
            ),
            counters=counters,
            facts=_facts(config, identity),
            host=machine.hostname(),
            started=clock.now(),
            consents=consents,
        )
        scrubber = Scrubber(node)
        self._undo.callback(node.roots.close)
        self._undo.callback(node.copiers.shutdown)
        shelf.held_elsewhere = partial(announce.held_elsewhere, node)
        records.bind(node)
        node.space.make_room = partial(sweep.make_room, node)
        node.space.leased = lambda row: node.left(row.grant) > 0
        pins.on_free = partial(retire.reap_soon, node)
        findings = await recover.at_start(node)
        node.space.load()
        node.bittorrent_port = await swarm.start(resuming={row.content for row in findings.transfers})
        self._undo.push_async_callback(swarm.close)
        PeerApi(node, doubted=scrubber.doubted).bind()
        directory.publish(announce.contents(node))
        await directory.start()
        self._undo.push_async_callback(directory.close)
        await acquaintances.meet(node)
        await seeding.encrypt_with(node)
        directory.on_change(partial(_changed, node))
        await checked
        await receive.resume_all(node, findings.transfers)
        await self._open_sockets(node)
        self._start_mdns(node)
        self._run_in_background(node, scrubber, findings)

    def _lock_state(self) -> None:
        folder = self.config.node.state_dir
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
        self._undo.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"another daemon runs on {folder}",
                hint="stop it, or give each --instance its own state_dir with {instance}",
            ) from None

    def _open_catalog(self, clock: machine.SystemClock) -> Catalog:
        path = self.config.node.state_dir / "catalog.db"
        try:
            catalog = Catalog.open(path, clock)
        except CatalogLost as lost:
            aside = set_aside(path)
            log.error("catalog.lost %s kept=%s: sets are adopted again from the store", lost.message, aside)
            catalog = Catalog.open(path, clock)
        self._undo.callback(catalog.close)
        return catalog

    def _open_stores(self) -> dict[Tier, Store]:
        stores: dict[Tier, Store] = {"disk": Store(self.config.store.disk, "disk")}
        if self.config.store.memory is not None:
            stores["memory"] = Store(self.config.store.memory, "memory")
        for tier, store in list(stores.items()):
            try:
                store.open_lock()
            except (CachedError, OSError) as error:
                if tier == "disk":
                    raise
                log.warning("memory_tier.off path=%s reason=%s", store.root, error)
                del stores[tier]
            else:
                self._undo.callback(store.close)
        return stores

    async def _open_sockets(self, node: Node) -> None:
        folder, counted = self.config.node.runtime_dir, ApiMetrics()
        machine.make_runtime_dir(folder)
        callers = Callers(admins=self.config.policy.admins, user_domain=self.config.cluster.user_domain)
        verbs = _verbs(node)
        given = notify.inherited()
        local = LocalServer(verbs, callers, counted=counted, registry=NodeMetrics(node, counted).registry)
        handles = HandleServer(verbs, callers, metrics=counted)
        listeners = {}
        for name, kind in (("api.sock", socket.SOCK_STREAM), ("data.sock", socket.SOCK_SEQPACKET)):
            listeners[name] = given.get(name) or sockets.listen(folder / name, kind)
            listeners[name].setblocking(False)
            if name not in given:
                self._undo.callback(sockets.forget, folder / name)
            self._undo.callback(listeners[name].close)
        await local.start(listeners["api.sock"])
        self._undo.push_async_callback(local.close)
        handles.start(listeners["data.sock"])
        self._undo.push_async_callback(handles.close)

    def _start_mdns(self, node: Node) -> None:
        if not self.config.cluster.mdns or self.config.cluster.key_file is None:
            return
        mdns = Mdns(
            node.identity.cluster_id,
            node.id,
            node.directory.address,
            split_address(self.config.node.listen)[0],
            node.directory.learn,
        )
        mdns.start()
        self._undo.callback(mdns.stop)

    def _run_in_background(self, node: Node, scrubber: Scrubber, findings: recover.Findings) -> None:
        background = {"drive": drive.run(node), "sweep": sweep.run(node), "scrubber": scrubber.run()}
        self._background = [asyncio.create_task(work, name=name) for name, work in background.items()]
        node.fly("recover", lambda: recover.afterwards(node, findings))
        node.fly("restore memory", lambda: memory.restore(node))

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


def _changed(node: Node, _node_ids: frozenset[str]) -> None:
    node.stirred.set()
    if not node.swarm.encrypted:
        node.fly("encrypt", lambda: seeding.encrypt_with(node))


def _facts(config: Config, identity: Identity) -> partial[NodeFacts]:
    """Return this machine's facts, to be completed with what changes."""
    arch, opsys = machine.uname()
    domain = f"@{config.cluster.user_domain}" if config.cluster.user_domain else ""
    return partial(
        NodeFacts,
        node_id=identity.node_id,
        machine=machine.hostname(),
        memory_bytes=machine.memory_bytes(),
        cpus=machine.cpus(),
        arch=arch,
        opsys=opsys,
        isolation=machine.isolation(),
        user=machine.user() + domain,
        start_time=int(machine.SystemClock().now().wall),
        methods=config.replication.methods,
    )


def _verbs(node: Node) -> Verbs:
    return Verbs(
        open_now=partial(read.open_now, node),
        open_path=partial(read.open_path, node),
        release=partial(read.release, node),
        begin=partial(create.begin, node),
        list_sets=partial(read.list_sets, node),
        show=partial(read.show, node),
        files=partial(read.files, node),
        update=partial(revise.update, node),
        extend=partial(revise.extend, node),
        delete=partial(revise.delete, node),
        replicate=partial(replicate.replicate, node),
        fetch=partial(fetch.fetch, node),
        verify=partial(verify.verify, node),
        match=partial(match.match, node),
        nodes=partial(status.nodes, node),
        status=partial(status.status, node),
        usage=partial(status.usage, node),
        locate=partial(locate.locate, node),
    )


async def run(config: Config) -> None:
    """Run a node until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    daemon = Daemon(config)
    try:
        await daemon.start()
        node = daemon.node
        assert node is not None
        log.info(
            "ready name=%s id=%s address=%s bittorrent=%d runtime_dir=%s",
            node.directory.name,
            node.id[:12],
            node.directory.address,
            node.bittorrent_port,
            config.node.runtime_dir,
        )
        notify.ready(f"{len(node.shelf.replicas)} sets, {node.directory.address}")
        await stop.wait()
        log.info("stopping")
        notify.stopping()
    finally:
        await daemon.stop()
    log.info("stopped")


def main(path: Path | None, instance: str, flags: Mapping[str, str]) -> int:
    """Run this node in the foreground; return the exit code. Raises `CachedError` when it cannot start."""
    config = administration.load(path, instance, flags)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    os.umask(0o022)
    door.raise_limit()
    asyncio.run(run(config))
    return 0

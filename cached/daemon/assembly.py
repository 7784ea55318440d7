"""The node assembled: its ports, its links to the others, its swarm, and what binds them to each other."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from functools import partial

from cached import machine
from cached.config import Config
from cached.daemon import objects
from cached.daemon.ground import Ground
from cached.matching.ads import NodeFacts
from cached.matchmaker.pool import Matchmaker
from cached.node import acquaintances, announce, book, retire, seeding, sweep
from cached.node.consents import Consents
from cached.node.counters import Counters
from cached.node.jobs import Jobs
from cached.node.node import Node
from cached.node.scrubber import Scrubber
from cached.node.space import Space
from cached.origin.gcs import Gcs
from cached.peers.directory import Directory
from cached.peers.identity import Identity
from cached.peers.link import Link
from cached.replication.bittorrent import Swarm
from cached.replication.direct import Direct
from cached.replication.serving import DirectServer


def assemble(
    ground: Ground, matchmaker: Matchmaker, link: Link, port: int, undo: contextlib.AsyncExitStack
) -> tuple[Node, Scrubber]:
    """Return the node and its scrubber, bound to each other; `link` listens on `port`. Nothing runs yet."""
    config, identity = ground.config, ground.identity
    counters, consents, records = Counters(), Consents(), book.Book()
    directory = _directory(ground, link, records, port)
    origin, space = _origin(config, undo), _space(ground)
    swarm = Swarm(
        node_id=identity.node_id,
        listen=config.node.bittorrent,
        scratch=config.store.disk / "packs",
        call=link.call,
        allowed=consents.allowed,
        lookup=lambda content, piece_size: seeding.lookup(node, content, piece_size),
        damaged=lambda content, reason: scrubber.suspect(content, reason, event="seed.damaged"),
        tls=seeding.material(identity),
        encrypted=config.replication.encryption == "tls",
        reachable=lambda: directory.reachable,
        host_of=directory.host_of,
        round_trip=link.round_trip,
    )
    _limit(config, link, swarm)
    node = Node(
        config=config,
        identity=identity,
        clock=ground.clock,
        new_id=lambda: secrets.token_hex(16),
        catalog=ground.catalog,
        shelf=ground.shelf,
        stores=ground.stores,
        space=space,
        pins=ground.pins,
        matchmaker=matchmaker,
        link=link,
        directory=directory,
        swarm=swarm,
        direct=Direct(
            fetch_stream=link.fetch,
            open_bulk=link.bulk,
            corrupt=lambda who, *what: scrubber.tell(*what, holder=who),
        ),
        direct_server=DirectServer(
            lookup=lambda content: seeding.served(node, content),
            allowed=consents.allowed,
        ),
        counters=counters,
        facts=_facts(config, identity),
        host=machine.hostname(),
        started=ground.clock.now(),
        consents=consents,
        origin=origin,
        objects=objects.assemble(ground, link, directory, origin, space, counters, undo),
        groups_of=machine.groups_of,
        jobs=Jobs(link.upload, link.download),
    )
    scrubber = Scrubber(node)
    undo.callback(node.roots.close)
    undo.callback(node.copiers.shutdown)
    undo.callback(node.provers.shutdown)
    records.bind(node)
    _bind(node)
    return node, scrubber


def _limit(config: Config, link: Link, swarm: Swarm) -> None:
    """Have nothing exceed the configured limits before they are looked after; see `cached.node.limits`."""
    limits = config.replication
    link.upload.limit(limits.upload_limit)
    link.download.limit(limits.download_limit)
    swarm.throttle.limit(limits.upload_limit, limits.download_limit)


def _origin(config: Config, undo: contextlib.AsyncExitStack) -> Gcs:
    """Return Cloud Storage; nothing is loaded or asked before somebody wants something of it."""
    facts = config.origin
    origin = Gcs(threads=facts.threads, endpoint=facts.endpoint, credentials=facts.credentials)
    undo.push_async_callback(origin.close)
    return origin


def _bind(node: Node) -> None:
    """Give the parts below what they ask the node for."""
    node.shelf.held_elsewhere = partial(announce.held_elsewhere, node)
    node.space.make_room = partial(sweep.make_room, node)
    node.space.leased = lambda row: node.left(row.grant) > 0
    node.pins.on_free = partial(retire.reap_soon, node)


def _directory(ground: Ground, link: Link, records: book.Book, port: int) -> Directory:
    config = ground.config
    return Directory(
        ground.identity,
        link,
        records,
        name=config.node.name,
        advertise=config.node.advertise,
        seeds=dict.fromkeys([*config.cluster.peers, *acquaintances.remembered(ground.catalog)]),
        listen=f"{config.node.listen.rpartition(':')[0]}:{port}",
    )


def _space(ground: Ground) -> Space:
    config = ground.config
    return Space(
        catalog=ground.catalog,
        shelf=ground.shelf,
        stores=ground.stores,
        limits={"disk": config.store.capacity, "memory": config.store.memory_capacity},
        quota=config.policy.quota,
    )


def _facts(config: Config, identity: Identity) -> Callable[..., NodeFacts]:
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

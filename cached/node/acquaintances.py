"""Acquaintances: the addresses of live peers, and our own port, remembered over a restart.

A node that was away must hear what it missed, deletions above all, before it speaks: it asks those whom it
knew, although its own configuration may name no seed that still lives, or only itself.
"""

from __future__ import annotations

import socket

import msgspec

from cached.catalog.sqlite import Catalog
from cached.errors import CachedError
from cached.node import announce
from cached.node.node import Node

KEY = "acquaintances"
PORT = "port"
#: So many are remembered.
MOST = 32
#: Seconds that peers have at a start to tell what was missed, above all what was deleted. Waited for only while one
#: may still answer: who cannot be dialled ends it sooner.
MEET = 5.0


def remembered(catalog: Catalog) -> tuple[str, ...]:
    """Return the addresses that an earlier life of this node has left, at start-up."""
    found = catalog.read_now(lambda tx: tx.get_meta(KEY))
    try:
        return msgspec.json.decode(found or "[]", type=tuple[str, ...])
    except msgspec.MsgspecError:
        return ()


def usual_address(catalog: Catalog, listen: str) -> str:
    """Return where to listen.

    With port 0 the port of this node's earlier life, if it is free, so that others find it again.
    """
    host, _, port = listen.rpartition(":")
    earlier = catalog.read_now(lambda tx: tx.get_meta(PORT))
    if port != "0" or not earlier or not earlier.isdecimal():
        return listen
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(earlier)))
        except (OSError, OverflowError):
            return listen
    return f"{host}:{earlier}"


async def settle(catalog: Catalog, port: int) -> None:
    """Remember the port that this node listens on."""
    if catalog.read_now(lambda tx: tx.get_meta(PORT)) != str(port):
        await catalog.write(lambda tx: tx.put_meta(PORT, str(port)))


async def meet(node: Node) -> None:
    """At a start: hear what was missed, and only then speak of the replicas here.

    Then keep the addresses up to date.
    """
    await node.directory.meet(MEET)
    node.introduced = True
    announce.publish(node)

    def changed(_node_ids: frozenset[str]) -> None:
        node.fly("acquaintances", lambda: remember(node))

    node.directory.on_change(changed)


async def remember(node: Node) -> None:
    """Write down who lives, if that has changed; when nobody does, the last ones stay in mind."""
    living = sorted(
        entry.record.address
        for entry in node.directory.nodes()
        if entry.alive and entry.record.reachable and entry.record.id != node.id
    )[:MOST]
    if not living or node.acquaintances == (now := tuple(living)):
        return
    node.acquaintances = now
    try:
        await node.catalog.write(lambda tx: tx.put_meta(KEY, msgspec.json.encode(now).decode()))
    except CachedError as error:
        node.acquaintances = ()
        node.counters.note("acquaintances.not_kept", error.message)

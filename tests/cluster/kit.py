"""What tests of clusters say again and again."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

from cached.client import Client
from tests.daemons.cluster import Cluster
from tests.daemons.node import Node


def free_port() -> int:
    """Return a port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that nothing compresses and nobody guesses."""
    return random.Random(seed).randbytes(size)


def start(cluster: Cluster, names: str, **settings: Any) -> list[Node]:
    """Start one node a letter, and wait until they see each other."""
    nodes = [cluster.start(name, **settings) for name in names]
    cluster.together(*nodes)
    return nodes


def states(node: Node, ref: str) -> dict[str, str]:
    """Return what a node says of a set's replicas: node name -> state; {} when it does not know the set."""
    return {item["node"]: item["state"] for item in node.show(ref).get("replicas", [])}


def holders(node: Node, ref: str) -> set[str]:
    """Return the names of the live nodes that hold the set, as `node` knows."""
    alive = {seen["name"] for seen in node.nodes() if seen["alive"]}
    return {name for name, state in states(node, ref).items() if state == "COMMITTED"} & alive


def has(node: Node, ref: str) -> bool:
    """Tell whether the node itself holds a committed replica."""
    return states(node, ref).get(node.name) == "COMMITTED"


def present(node: Node, ref: str) -> int:
    """Return how many bytes of a set the node itself has received."""
    return sum(
        item["bytes_present"] for item in node.show(ref).get("replicas", []) if item["node"] == node.name
    )


def alive(node: Node, other: Node) -> bool:
    """Tell whether `node` takes `other` for alive."""
    return any(seen["id"] == other.id and seen["alive"] for seen in node.nodes())


def trees(node: Node) -> list[Path]:
    """Return what lies in a node's staging areas and in its trash: nothing, when all is done."""
    return [
        path
        for store in (node.disk, node.memory)
        for folder in ("incoming", "trash")
        if (store / folder).exists()
        for path in (store / folder).iterdir()
    ]


def contents(node: Node) -> list[Path]:
    """Return the contents that lie on a node's disk."""
    return sorted((node.disk / "contents").iterdir())


def client_of(node: Node) -> Client:
    """Return a client of somebody without a token; close it."""
    return Client(node.runtime, timeout=120, token="")


def copies(*nodes: Node) -> list[Path]:
    """Return the files of copies of objects on these nodes, in all tiers."""
    return [
        path
        for node in nodes
        for store in (node.disk, node.memory)
        if (store / "objects").exists()
        for path in (store / "objects").iterdir()
    ]

"""Nodes of one process with an origin, and the users and files of its tests."""

from __future__ import annotations

import asyncio

from cached.node import persist
from tests.node.fakes import caller, hand_over

ADA = caller("ada", "lab")


BUCKETS = {"data": ("*",), "closed": ("group:others", "bob"), "lab": ("group:lab",)}


FILES = {"a": b"some bytes", "d/b": b"x" * 40_000, "d/e/c": b""}


async def node_with(w, origin, name="a", **config):
    node = await w.node(name, buckets=BUCKETS, **config)
    node.origin = origin
    persist.resume_all(node)
    return node


def run(story):
    asyncio.run(story)


async def persisted(node, who, name, files, target, **options):
    """Create a set that the origin keeps, as a connection does it: whatever fails ends the creation."""
    creation = await hand_over(node, who, name, files, origin=target, **options)
    try:
        await creation.ahead()
        await creation.seal()
        return await creation.kept()
    finally:
        await creation.abort()
